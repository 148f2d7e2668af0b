package model

import (
	"encoding/json"
	"fmt"

	"github.com/openai/openai-go/v3/packages/param"
	"github.com/openai/openai-go/v3/responses"
	"github.com/openai/openai-go/v3/shared"
)

// params builds the body. Items and tools are given to the library as raw
// overrides: its encoder then writes their bytes as they are, so what the model
// said comes back to it unchanged, members this code never heard of included.
func (r Request) params() (responses.ResponseNewParams, error) {
	input := make(responses.ResponseInputParam, 0, len(r.Input))
	for i, raw := range r.Input {
		if !json.Valid(raw) {
			return responses.ResponseNewParams{}, fmt.Errorf("input item %d is not JSON", i)
		}
		input = append(input, param.Override[responses.ResponseInputItemUnionParam](raw))
	}
	p := responses.ResponseNewParams{
		Model: r.Model,
		Input: responses.ResponseNewParamsInputUnion{OfInputItemList: input},
		Store: param.NewOpt(false),
	}
	if !r.NoEncrypted {
		p.Include = []responses.ResponseIncludable{responses.ResponseIncludableReasoningEncryptedContent}
	}
	for i, raw := range r.Tools {
		if !json.Valid(raw) {
			return responses.ResponseNewParams{}, fmt.Errorf("tool %d is not JSON", i)
		}
		p.Tools = append(p.Tools, param.Override[responses.ToolUnionParam](raw))
	}
	if len(p.Tools) > 0 { // how to use tools is nothing to say without any, and some endpoints refuse it
		p.ToolChoice = responses.ResponseNewParamsToolChoiceUnion{OfToolChoiceMode: param.NewOpt(responses.ToolChoiceOptionsAuto)}
		p.ParallelToolCalls = param.NewOpt(r.ParallelToolCalls)
	}
	if r.CacheKey != "" {
		p.PromptCacheKey = param.NewOpt(r.CacheKey)
	}
	if r.Effort != "" {
		p.Reasoning.Effort = shared.ReasoningEffort(r.Effort)
	}
	if r.Summary != "" && r.Summary != "none" {
		p.Reasoning.Summary = shared.ReasoningSummary(r.Summary)
	}
	if len(r.OutputSchema) > 0 {
		format, err := json.Marshal(map[string]any{
			"type": "json_schema", "name": "codex_output_schema", "strict": true, "schema": r.OutputSchema,
		})
		if err != nil {
			return responses.ResponseNewParams{}, fmt.Errorf("output schema: %w", err)
		}
		p.Text.Format = param.Override[responses.ResponseFormatTextConfigUnionParam](json.RawMessage(format))
	}
	return p, nil
}
