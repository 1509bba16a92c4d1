//! From the text of an expression to a program.

use std::fmt::Write;

use cel::parser::pratt_parser::{Lexer, PrattParser, TokenKind};

use super::{Program, lower::Lowering};
use crate::{
    error::ExpressionError,
    limits::{MAX_EXPRESSION_BYTES, MAX_NESTING, MAX_TOKENS},
    spec::Event,
    verdict::shorten,
};

/// Maximum number of errors of the parser that are reported.
const MAX_REPORTED: usize = 3;

/// Compiles an expression for inputs of some events.
///
/// # Errors
/// [`ExpressionError`] if it is no CEL, is too large, or uses what does not exist.
pub(crate) fn compile(source: &str, on: &[Event]) -> Result<Program, ExpressionError> {
    if source.len() > MAX_EXPRESSION_BYTES {
        return Err(ExpressionError::TooLong(source.len()));
    }
    check_tokens(source)?;
    // The crate's other parser needs over 100 KiB of stack for a bracket in debug builds; this one needs less than one.
    let parser = PrattParser::new().max_recursion_depth(MAX_NESTING as u16 * 2).error_recovery_limit(1);
    let tree = parser.parse(source).map_err(|errors| {
        let mut text = String::new();
        for error in errors.errors.iter().take(MAX_REPORTED) {
            let separator = if text.is_empty() { "" } else { "; " };
            let (line, column) = error.pos;
            let _ = write!(text, "{separator}line {line}, column {column}: {}", error.msg);
        }
        ExpressionError::Syntax(shorten(&text))
    })?;
    Lowering::new(on).expression(&tree)
}

/// Bounds the recursion of the parser, with its own lexer.
fn check_tokens(source: &str) -> Result<(), ExpressionError> {
    let mut lexer = Lexer::new(source);
    let (mut tokens, mut depth, mut conditionals) = (0_usize, 0_usize, 0_usize);
    loop {
        match lexer.lex().kind {
            TokenKind::TokEnd => return Ok(()),
            TokenKind::TokError => {
                let what = lexer.get_error().map_or("it has an invalid token", |error| error.message.as_str());
                return Err(ExpressionError::Syntax(shorten(what)));
            }
            TokenKind::TokWhitespace | TokenKind::TokComment => continue,
            TokenKind::TokLeftBrace | TokenKind::TokLeftBracket | TokenKind::TokLeftParen => depth += 1,
            TokenKind::TokRightBrace | TokenKind::TokRightBracket | TokenKind::TokRightParen => {
                depth = depth.saturating_sub(1);
            }
            TokenKind::TokQuestion => conditionals += 1,
            _ => {}
        }
        tokens += 1;
        if tokens > MAX_TOKENS {
            return Err(ExpressionError::TooManyTokens);
        }
        if depth > MAX_NESTING || conditionals > MAX_NESTING {
            return Err(ExpressionError::Nesting);
        }
    }
}
