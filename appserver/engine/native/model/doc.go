// Package model speaks the Responses API, with streaming, to any endpoint that
// offers it. It sends one request, hands out what the model says as it is said,
// and classifies what goes wrong. It knows nothing of tools, turns or threads,
// and it does not retry: package agent does, because a retry is announced.
//
// Start at [New] and [Client.Stream].
//
// # The request
//
// POST {BaseURL}/responses with the body Codex sends: model, input, tools,
// tool_choice "auto", parallel_tool_calls, reasoning, store false, stream true,
// include ["reasoning.encrypted_content"], prompt_cache_key, text. There is no
// instructions member: base instructions are the first developer message of the
// input. Input items and tools are sent with the bytes they were given.
//
// # The stream
//
// Server-sent events whose data is one JSON object with a "type". What counts:
//
//	response.output_item.added              an item begins
//	response.output_text.delta              text of the current message
//	response.reasoning_summary_part.added   a part of the summarised thinking begins
//	response.reasoning_summary_text.delta   … its text
//	response.reasoning_text.delta           unsummarised thinking, where offered
//	response.output_item.done               the item as it is to be replayed
//	response.completed                      the end; must carry response.id
//	response.failed, response.incomplete, error
//
// Event names, ids, comments, "[DONE]", events of other types and lines that are
// not JSON are passed over, because endpoints differ in exactly these.
package model
