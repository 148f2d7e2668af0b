package protocol

import (
	"encoding/json"
	"fmt"
	"strconv"
)

// Error codes Codex sends. Nearly everything is CodeInvalidRequest, an unknown
// method included; clients do not branch on more than these.
const (
	CodeInvalidRequest = -32600
	CodeMethodNotFound = -32601
	CodeInternal       = -32603
	CodeOverloaded     = -32001
)

// Error is the error member of a response. It is an error value of ours too.
type Error struct {
	Code    int             `json:"code"`
	Message string          `json:"message"`
	Data    json.RawMessage `json:"data,omitempty"`
}

func (e *Error) Error() string { return e.Message }

// Errorf builds an invalid-request error, the code Codex uses for refusals.
func Errorf(format string, args ...any) *Error {
	return &Error{Code: CodeInvalidRequest, Message: fmt.Sprintf(format, args...)}
}

// Internalf builds an internal error, the code Codex uses for failures of the
// operating system.
func Internalf(format string, args ...any) *Error {
	return &Error{Code: CodeInternal, Message: fmt.Sprintf(format, args...)}
}

// ErrOverloaded answers a request that arrived while the ingress queue was full.
var ErrOverloaded = &Error{Code: CodeOverloaded, Message: "Server overloaded; retry later."}

// IntID and StringID make request ids.
func IntID(n int64) json.RawMessage { return strconv.AppendInt(nil, n, 10) }

// StringID makes a request id from a string.
func StringID(s string) json.RawMessage { b, _ := json.Marshal(s); return b } // a string always marshals

// NewRequest encodes a request. A nil params is sent as {}, because Codex
// refuses requests without the member.
func NewRequest(id json.RawMessage, method string, params any) ([]byte, error) {
	p, err := marshalParams(params)
	if err != nil {
		return nil, err
	}
	return json.Marshal(struct {
		ID     json.RawMessage `json:"id"`
		Method string          `json:"method"`
		Params json.RawMessage `json:"params"`
	}{id, method, p})
}

// NewNotification encodes a notification. atMs is the Unix time in milliseconds
// servers stamp on what they emit; 0 leaves the member out, as clients do.
func NewNotification(method string, params any, atMs int64) ([]byte, error) {
	p, err := marshalParams(params)
	if err != nil {
		return nil, err
	}
	return json.Marshal(struct {
		Method    string          `json:"method"`
		Params    json.RawMessage `json:"params"`
		EmittedAt int64           `json:"emittedAtMs,omitempty"`
	}{method, p, atMs})
}

// NewResponse encodes a successful answer. A nil result is sent as {}.
func NewResponse(id json.RawMessage, result any) ([]byte, error) {
	r, err := marshalParams(result)
	if err != nil {
		return nil, err
	}
	return json.Marshal(struct {
		ID     json.RawMessage `json:"id"`
		Result json.RawMessage `json:"result"`
	}{id, r})
}

// NewError encodes a failed answer.
func NewError(id json.RawMessage, e *Error) []byte {
	b, err := json.Marshal(struct {
		ID    json.RawMessage `json:"id"`
		Error *Error          `json:"error"`
	}{id, e})
	if err != nil { // only a Data that is not JSON can do this
		b, _ = json.Marshal(map[string]any{"id": id, "error": map[string]any{"code": e.Code, "message": e.Message}})
	}
	return b
}

func marshalParams(v any) (json.RawMessage, error) {
	switch v := v.(type) {
	case nil:
		return json.RawMessage("{}"), nil
	case json.RawMessage:
		if len(v) == 0 {
			return json.RawMessage("{}"), nil
		}
		return v, nil
	}
	return json.Marshal(v)
}
