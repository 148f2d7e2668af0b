package agent

import (
	"encoding/json"
	"strings"

	"towline/appserver/protocol"
)

// idPrefixes are what the Responses API insists the ids of items begin with.
var idPrefixes = map[string]string{
	"message": "msg", "reasoning": "rs", "function_call": "fc", "custom_tool_call": "ctc", "web_search_call": "ws",
	"function_call_output": "fc", "custom_tool_call_output": "ctc",
}

// sendable is a recorded item in the form endpoints take as input. Items are
// recorded as the model said them, and some of that is refused when it comes
// back: members that are null, the status of reasoning, and ids another endpoint
// made up. Everything else goes back as it is, members not known here included.
func sendable(raw json.RawMessage) json.RawMessage {
	var item map[string]json.RawMessage
	if json.Unmarshal(raw, &item) != nil {
		return raw
	}
	typ := protocol.StringField(raw, "type")
	before := len(item)
	for name, v := range item {
		if string(v) == "null" || name == "status" && typ == "reasoning" {
			delete(item, name)
		}
	}
	if id, ok := item["id"]; ok {
		var s string
		if prefix, known := idPrefixes[typ]; known && (json.Unmarshal(id, &s) != nil || !strings.HasPrefix(s, prefix)) {
			delete(item, "id")
		}
	}
	if len(item) == before {
		return raw
	}
	return mustJSON(item)
}

// thought reports whether a reasoning item has anything for the model in it. One
// with an id alone names what the endpoint would have kept, had it been allowed to.
func thought(raw json.RawMessage) bool {
	if protocol.StringField(raw, "encrypted_content") != "" {
		return true
	}
	var parts []json.RawMessage
	return json.Unmarshal(protocol.Field(raw, "content"), &parts) == nil && len(parts) > 0
}
