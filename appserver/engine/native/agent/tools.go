package agent

import (
	"encoding/json"
	"path/filepath"

	"towline/appserver/protocol"
)

// property and object build JSON schemas.
type property = map[string]any

func prop(typ, description string) property { return property{"type": typ, "description": description} }

func function(name, description string, properties map[string]any, required ...string) json.RawMessage {
	return mustJSON(map[string]any{
		"type": "function", "name": name, "description": description, "strict": false,
		"parameters": object(properties, required...),
	})
}

func object(properties map[string]any, required ...string) property {
	return property{"type": "object", "properties": properties, "required": required, "additionalProperties": false}
}

// The tools every turn offers. Names, parameters and their types are Codex's;
// the descriptions are ours.
var (
	execCommandTool = function("exec_command",
		"Run a shell command. Answers with its output and exit code, or with a session id when it is still running.",
		map[string]any{
			"cmd":                 prop("string", "The command line, as a shell reads it."),
			"workdir":             prop("string", "Directory to run in; the turn's own when left out."),
			"shell":               prop("string", "Program that reads the command line; the user's shell when left out."),
			"login":               prop("boolean", "Whether the shell reads its start-up files (-l). Default true."),
			"tty":                 prop("boolean", "True gives the command a terminal and keeps its input open; false or absent means pipes and no input."),
			"yield_time_ms":       prop("number", "How long to wait for output before answering, 250 to 30000 ms. Default 10000."),
			"max_output_tokens":   prop("number", "Most tokens of output to answer with. Default and limit 10000."),
			"sandbox_permissions": property{"type": "string", "enum": []string{"use_default", "require_escalated"}, "description": "\"require_escalated\" asks the user to run this one command outside the sandbox. Default \"use_default\"."},
			"justification":       prop("string", "With \"require_escalated\": a short question to the user, saying why."),
			"prefix_rule":         property{"type": "array", "items": property{"type": "string"}, "description": "With \"require_escalated\": leading words of the command the user could allow from now on, such as [\"git\", \"pull\"]."},
		}, "cmd")

	writeStdinTool = function("write_stdin",
		"Type into a command that is still running, or wait for more of its output.",
		map[string]any{
			"session_id":        prop("number", "The session id exec_command answered with."),
			"chars":             prop("string", "What to type; empty just waits. Ctrl-C is \\u0003."),
			"yield_time_ms":     prop("number", "How long to wait for output: 250 to 30000 ms after typing (default 250), 5000 to 300000 ms when only waiting (default 5000)."),
			"max_output_tokens": prop("number", "Most tokens of output to answer with. Default and limit 10000."),
		}, "session_id")

	applyPatchTool = mustJSON(map[string]any{
		"type": "custom", "name": "apply_patch",
		"description": "Edit files with a patch. This tool takes the patch itself as its input, not JSON.",
		"format":      map[string]any{"type": "grammar", "syntax": "lark", "definition": patchGrammar},
	})

	// applyPatchFunction stands in on endpoints that know function tools only.
	applyPatchFunction = function("apply_patch",
		"Edit files with a patch. The patch follows this grammar:\n"+patchGrammar,
		map[string]any{"input": prop("string", "The whole patch, from \"*** Begin Patch\" to \"*** End Patch\".")}, "input")

	updatePlanTool = function("update_plan",
		"Show the user the steps of the task and how far each is. Send the whole list every time, with at most one step in progress.",
		map[string]any{
			"explanation": prop("string", "Why the plan changed, if that helps."),
			"plan": property{"type": "array", "description": "The steps in order.", "items": object(map[string]any{
				"step":   prop("string", "What is done in this step."),
				"status": property{"type": "string", "enum": []string{"pending", "in_progress", "completed"}, "description": "How far it is."},
			}, "step", "status")},
		}, "plan")

	viewImageTool = function("view_image",
		"Look at an image file on this machine.",
		map[string]any{"path": prop("string", "Path of the image.")}, "path")

	requestUserInputTool = function("request_user_input",
		"Ask the user one to three short questions and wait for the answers. Only in plan mode.",
		map[string]any{
			"questions": property{"type": "array", "description": "One to three questions.", "items": object(map[string]any{
				"id":       prop("string", "Name of the answer, in snake_case."),
				"header":   prop("string", "Label of at most 12 characters."),
				"question": prop("string", "The question, in one sentence."),
				"options": property{"type": "array", "description": "Two or three answers to choose from, the best one first. The user can always answer freely.", "items": object(map[string]any{
					"label":       prop("string", "The answer in one to five words."),
					"description": prop("string", "What choosing it means, in one sentence."),
				}, "label", "description")},
			}, "id", "header", "question", "options")},
		}, "questions")
)

// patchGrammar is the language of patches, in lark's notation: package patch
// reads what it describes, and it describes what Codex models were trained on.
const patchGrammar = `start: "*** Begin Patch" LF section+ "*** End Patch" LF?
section: addition | deletion | edit
addition: "*** Add File: " path LF new_line+
deletion: "*** Delete File: " path LF
edit: "*** Update File: " path LF move? body?
move: "*** Move to: " path LF
body: (anchor | line)+ last?
anchor: ("@@" | "@@ " /(.+)/) LF
line: ("+" | "-" | " ") /(.*)/ LF
last: "*** End of File" LF
new_line: "+" /(.*)/ LF
path: /(.+)/
%import common.LF
`

// tools is what the turn offers.
func (t *turn) tools(patchAsFunction bool) []json.RawMessage {
	list := []json.RawMessage{execCommandTool, writeStdinTool, updatePlanTool}
	if t.PlanMode {
		list = append(list, requestUserInputTool)
	}
	if patchAsFunction {
		list = append(list, applyPatchFunction)
	} else {
		list = append(list, applyPatchTool)
	}
	list = append(list, viewImageTool)
	for _, d := range t.dynamicOrder() {
		list = append(list, d.definition)
	}
	return list
}

// updatePlan shows the plan. There is no item for it: clients keep the latest.
func (t *turn) updatePlan(call *call) result {
	var a struct {
		Explanation *string              `json:"explanation"`
		Plan        *[]protocol.PlanStep `json:"plan"`
	}
	if err := call.decode(&a); err != nil {
		return text("%v", err)
	}
	if a.Plan == nil {
		return text("failed to parse function arguments: missing field `plan`")
	}
	if len(*a.Plan) > maxPlanSteps {
		return text("update_plan failed: more than %d steps", maxPlanSteps)
	}
	steps := []protocol.PlanStep{}
	for _, s := range *a.Plan {
		switch s.Status {
		case "pending", "completed":
		case "in_progress":
			s.Status = "inProgress"
		default:
			return text("failed to parse function arguments: unknown status %q, expected pending, in_progress or completed", s.Status)
		}
		steps = append(steps, s)
	}
	t.notify("turn/plan/updated", map[string]any{
		"threadId": t.s.cfg.ThreadID, "turnId": t.ID, "explanation": a.Explanation, "plan": steps,
	})
	return text("Plan updated")
}

const maxPlanSteps = 200

// viewImage puts an image file in front of the model.
func (t *turn) viewImage(call *call) result {
	var a struct {
		Path string `json:"path"`
	}
	if err := call.decode(&a); err != nil {
		return text("%v", err)
	}
	path := absolute(t.Cwd, a.Path)
	url, err := imageURL(path)
	if err != nil {
		return text("unable to locate image at `%s`: %v", path, err)
	}
	it := protocol.Item{ID: call.id, Body: &protocol.ImageView{Path: filepath.Clean(path)}}
	t.started(&it)
	t.completed(&it)
	return result{content: mustJSON([]any{imagePart(url)})}
}
