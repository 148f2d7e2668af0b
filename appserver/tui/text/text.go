// Package text makes text from elsewhere safe to draw, and measures, cuts and
// wraps text that is drawn.
//
// Everything that did not come from this program (model output, command output,
// file names, thread titles, names of other people) goes through [Clean] or
// [CleanLine] before it meets a terminal. Command output that arrives in pieces
// goes through a [Stream]. What a person is asked to approve goes through
// [Reveal], which hides nothing: it shows such characters in place of acting on
// them. What comes out holds no control byte but newline, so styling may be added
// around it afterwards.
//
// [Width], [Truncate], [Fit] and [Wrap] understand SGR styling and count
// grapheme clusters the way terminals do. Wrap takes plain (cleaned) text;
// WrapStyled takes styled text.
package text
