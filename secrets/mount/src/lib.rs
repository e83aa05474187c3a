//! The tmpfs with the files a task sees, and its namespaces.
