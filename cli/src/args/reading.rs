//! Reads the files that the arguments name.

use std::io;

use super::SubmitArgs;
use crate::inputs;

impl SubmitArgs {
    /// Reads the workflow, if one is named, on a blocking thread, because standard input can block.
    ///
    /// # Errors
    /// See [`inputs::read_workflow`].
    pub async fn read_workflow(&self) -> Result<Option<inputs::Workflow>, inputs::InputError> {
        let Some(file) = self.workflow.clone() else { return Ok(None) };
        let failed = |error| inputs::InputError::Read { from: "the workflow".into(), error: io::Error::other(error) };
        tokio::task::spawn_blocking(move || inputs::read_workflow(&file)).await.map_err(failed)?.map(Some)
    }

    /// Reads the inputs of the tasks, on a blocking thread, because standard input can block. That of a single one may be
    /// large if there is a store for it.
    ///
    /// # Errors
    /// See [`inputs::read_input`], [`inputs::read_large_input`] and [`inputs::read_lines`].
    pub async fn read_inputs(&self, has_store: bool) -> Result<Vec<inputs::LineInput>, inputs::InputError> {
        let tasks = inputs::Form::Tasks { has_kind: self.kind.is_some() };
        let lines = self.inputs.clone().map(|file| (file, inputs::Form::Values));
        let lines = lines.or_else(|| self.tasks.clone().map(|file| (file, tasks)));
        let one = self.input.clone();
        let reading = tokio::task::spawn_blocking(move || match (lines, one) {
            (Some((file, form)), _) => inputs::read_lines(&file, form),
            (None, Some(file)) => {
                let input = if has_store { inputs::read_large_input(&file)? } else { inputs::read_input(&file)? };
                Ok(vec![inputs::LineInput { input, ..Default::default() }])
            }
            (None, None) => Ok(vec![inputs::LineInput::default()]),
        });
        let failed = |error| inputs::InputError::Read { from: "the input".into(), error: io::Error::other(error) };
        reading.await.map_err(failed)?
    }
}
