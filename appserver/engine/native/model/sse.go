package model

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"log/slog"

	"towline/appserver/protocol"
)

// The library's own stream is not used for reading: it ends the whole response
// at the first event that is not JSON, treats "[DONE]" as a good end whether or
// not the response completed, and drops a last event without a blank line after
// it. Codex shrugs at all three, and endpoints are written against Codex. Its
// event union also takes five times as long and thirty times the memory per
// token. What is left to do is the few lines below.

var (
	errIdle    = errors.New("no data for too long")
	errEnded   = errors.New("stream ended before the response was complete")
	errTooLong = errors.New("event is too long")
)

// wire is the union of the event members that matter.
type wire struct {
	Type         string          `json:"type"`
	ItemID       string          `json:"item_id"`
	Item         json.RawMessage `json:"item"`
	Delta        string          `json:"delta"`
	SummaryIndex int             `json:"summary_index"`
	ContentIndex int             `json:"content_index"`
	Response     json.RawMessage `json:"response"`
	// The members of a bare "error" event, which some endpoints nest.
	Code    string     `json:"code"`
	Message string     `json:"message"`
	Error   *wireError `json:"error"`
}

type wireError struct {
	Code    flexible `json:"code"`
	Type    string   `json:"type"`
	Message string   `json:"message"`
}

// flexible is an error code: a string here, a number or null there.
type flexible string

func (f *flexible) UnmarshalJSON(b []byte) error {
	var s string
	if json.Unmarshal(b, &s) == nil {
		*f = flexible(s)
		return nil
	}
	if !bytes.Equal(b, []byte("null")) {
		*f = flexible(b)
	}
	return nil
}

type wireResponse struct {
	ID    string          `json:"id"`
	Usage json.RawMessage `json:"usage"`
	Error *wireError      `json:"error"`
	Why   struct {
		Reason string `json:"reason"`
	} `json:"incomplete_details"`
}

// read decodes a stream until the response completed or failed. alive is called
// for every line, whatever is in it: a comment is a sign of life too.
func read(r io.Reader, alive func(), on func(Event), log *slog.Logger) error {
	br := bufio.NewReaderSize(r, 64<<10)
	var data []byte
	for {
		line, err := readLine(br, maxEventBytes-len(data))
		if errors.Is(err, errTooLong) {
			return err
		}
		alive()
		switch {
		case len(line) == 0:
			if len(data) > 0 {
				if done, derr := dispatch(data, on, log); done || derr != nil {
					return derr
				}
				data = data[:0]
			}
		case bytes.HasPrefix(line, []byte("data:")):
			if len(data) > 0 {
				data = append(data, '\n')
			}
			data = append(data, bytes.TrimPrefix(line[5:], []byte(" "))...)
		}
		if err == nil {
			continue
		}
		// A last event counts even when the blank line after it never came.
		if len(data) > 0 {
			if done, derr := dispatch(data, on, log); done || derr != nil {
				return derr
			}
		}
		if errors.Is(err, io.EOF) {
			return errEnded
		}
		return err
	}
}

// readLine returns the next line without its end. The last line may come with
// io.EOF. At most max bytes are buffered.
func readLine(br *bufio.Reader, max int) ([]byte, error) {
	var long []byte
	for {
		part, err := br.ReadSlice('\n')
		if len(long)+len(part) > max {
			return nil, errTooLong
		}
		if errors.Is(err, bufio.ErrBufferFull) {
			long = append(long, part...)
			continue
		}
		if long != nil {
			part = append(long, part...)
		}
		return bytes.TrimRight(part, "\r\n"), err
	}
}

// dispatch acts on the data of one event. done means the response completed.
func dispatch(data []byte, on func(Event), log *slog.Logger) (done bool, err error) {
	var w wire
	if err := json.Unmarshal(data, &w); err != nil {
		if !bytes.Equal(bytes.TrimSpace(data), []byte("[DONE]")) {
			log.Debug("event passed over: not the JSON expected", "bytes", len(data))
		}
		return false, nil
	}
	switch w.Type {
	case "response.output_item.added", "response.output_item.done":
		if len(w.Item) == 0 || w.Item[0] != '{' {
			return false, nil
		}
		kind := ItemAdded
		if w.Type == "response.output_item.done" {
			kind = ItemDone
		}
		on(Event{Kind: kind, ItemID: protocol.StringField(w.Item, "id"), Item: w.Item})
	case "response.output_text.delta":
		on(Event{Kind: TextDelta, ItemID: w.ItemID, Delta: w.Delta})
	case "response.reasoning_summary_part.added":
		on(Event{Kind: ReasoningPart, ItemID: w.ItemID, Index: max(w.SummaryIndex, 0)})
	case "response.reasoning_summary_text.delta":
		on(Event{Kind: ReasoningDelta, ItemID: w.ItemID, Index: max(w.SummaryIndex, 0), Delta: w.Delta})
	case "response.reasoning_text.delta":
		on(Event{Kind: ReasoningTextDelta, ItemID: w.ItemID, Index: max(w.ContentIndex, 0), Delta: w.Delta})
	case "response.completed":
		r := response(w.Response)
		if r.ID == "" {
			return false, errEnded
		}
		on(Event{Kind: Completed, ResponseID: r.ID, Usage: usage(r.Usage)})
		return true, nil
	case "response.failed":
		r := response(w.Response)
		if r.Error == nil {
			r.Error = &wireError{}
		}
		return false, failed(string(r.Error.Code), r.Error.Message)
	case "response.incomplete":
		return false, incomplete(response(w.Response).Why.Reason)
	case "error":
		if w.Error != nil {
			return false, failed(string(w.Error.Code), w.Error.Message)
		}
		return false, failed(w.Code, w.Message)
	}
	return false, nil
}

// response decodes what it can: an endpoint's odd member must not cost the rest.
func response(raw json.RawMessage) wireResponse {
	var r wireResponse
	if json.Unmarshal(raw, &r) != nil {
		r = wireResponse{ID: protocol.StringField(raw, "id"), Usage: protocol.Field(raw, "usage")}
	}
	return r
}

// usage returns nil unless the three counts every endpoint must give are there.
func usage(raw json.RawMessage) *protocol.TokenUsage {
	var u struct {
		Input  *int64 `json:"input_tokens"`
		Output *int64 `json:"output_tokens"`
		Total  *int64 `json:"total_tokens"`
		In     struct {
			Cached     int64 `json:"cached_tokens"`
			CacheWrite int64 `json:"cache_write_tokens"`
		} `json:"input_tokens_details"`
		Out struct {
			Reasoning int64 `json:"reasoning_tokens"`
		} `json:"output_tokens_details"`
	}
	if len(raw) == 0 || json.Unmarshal(raw, &u) != nil || u.Input == nil || u.Output == nil || u.Total == nil {
		return nil
	}
	return &protocol.TokenUsage{
		TotalTokens: *u.Total, InputTokens: *u.Input, OutputTokens: *u.Output,
		CachedInputTokens: u.In.Cached, CacheWriteInputTokens: u.In.CacheWrite, ReasoningOutputTokens: u.Out.Reasoning,
	}
}
