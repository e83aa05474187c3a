//! Secret and config objects, references, assignment sets.
