//! How the external CA does that signs for the cluster.

use super::Effect;
use crate::{change::Refusal, objects::NoteSigner, state::State};

/// What is kept of an error text.
const MAX_ERROR_BYTES: usize = 1024;

impl State {
    pub(super) fn note_signer(&mut self, op: NoteSigner) -> Result<Effect, Refusal> {
        let old = self.cluster.as_deref().ok_or(Refusal::Stale)?;
        let mut trouble = op.trouble;
        if let Some(trouble) = &mut trouble {
            let end = trouble.error.floor_char_boundary(MAX_ERROR_BYTES);
            trouble.error.truncate(end);
        }
        if old.signer_trouble == trouble {
            return Ok(Effect::default());
        }
        let mut new = old.clone();
        new.signer_trouble = trouble;
        Ok(self.set_cluster(new).into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        meta::version_of,
        objects::{SignerTrouble, command::Op},
        testing::{bootstrapped, run},
    };

    fn note(state: &mut State, error: Option<&str>) {
        let trouble = error.map(|error| SignerTrouble {
            since: None,
            error: error.to_owned(),
        });
        run(state, Op::NoteSigner(NoteSigner { trouble })).unwrap();
    }

    #[test]
    fn trouble_comes_and_goes_without_a_new_version() {
        let mut state = bootstrapped();
        let version = |state: &State| version_of(state.cluster().unwrap().meta.as_ref());
        let before = version(&state);
        note(&mut state, Some(&"é".repeat(4000)));
        let shown = |state: &State| state.cluster().unwrap().signer_trouble.clone();
        assert_eq!(shown(&state).unwrap().error.len(), MAX_ERROR_BYTES);
        note(&mut state, None);
        assert_eq!(shown(&state), None);
        assert_eq!(version(&state), before);
    }
}
