package secret

import (
	"fmt"
	"io"
	"log/slog"
)

// Redacted is what stands for a secret wherever one would be printed.
const Redacted = "[redacted]"

// String is a secret on its own: it prints as [Redacted] however it is printed.
// A field of this type must be an exported one: fmt looks into the others
// without asking.
type String string

// String gives [Redacted].
func (String) String() string { return Redacted }

// Format prints [Redacted] for every verb.
func (String) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, Redacted) }

// LogValue gives [Redacted].
func (String) LogValue() slog.Value { return slog.StringValue(Redacted) }

// MarshalText gives [Redacted].
func (String) MarshalText() ([]byte, error) { return []byte(Redacted), nil }

// Reveal is the secret. Call it only where it is handed on.
func (s String) Reveal() string { return string(s) }
