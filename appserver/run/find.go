package run

import (
	"context"
	"errors"
	"fmt"

	"towline/appserver/protocol"
	"towline/config"
)

// sources are all kinds of threads that people and programs start; the list leaves
// some out unless asked.
var sources = []string{"cli", "vscode", "exec", "appServer"}

// names is how many threads are looked through for a name.
const names = 2000

// find is the thread that the request means.
func (t *turn) find(ctx context.Context) (protocol.ThreadID, error) {
	if id := t.req.Resume; isID(id) {
		return protocol.ThreadID(id), nil
	}
	p := map[string]any{"sourceKinds": sources, "sortKey": "updated_at", "sortDirection": "desc", "limit": 100}
	if t.req.Last {
		p["limit"] = 1
	}
	if t.req.Cwd != "" && t.req.Last && !t.req.All {
		p["cwd"] = t.req.Cwd
	}
	for seen := 0; seen < names; {
		var page protocol.ThreadList
		if err := t.link.call(ctx, "thread/list", p, &page); err != nil {
			return "", err
		}
		for _, th := range page.Data {
			if t.req.Last || th.Name != nil && *th.Name == t.req.Resume {
				return th.ID, nil
			}
		}
		seen += len(page.Data)
		if page.NextCursor == nil || len(page.Data) == 0 || t.req.Last {
			break
		}
		p["cursor"] = *page.NextCursor
	}
	if t.req.Last {
		return "", &config.Problem{
			Stage: "thread", Err: errors.New("there is no thread to go on with"), Exit: config.ExitFailure,
			Hints: []string{"add --all for one that worked elsewhere", "or leave --last out, to begin one"},
		}
	}
	return "", &config.Problem{
		Stage: "thread", Err: fmt.Errorf("no thread is called %q", config.OneLine(t.req.Resume)), Exit: config.ExitFailure,
		Hints: []string{"name it by its id, which `towline exec` prints"},
	}
}

// isID reports whether s has the shape of a thread's id.
func isID(s string) bool {
	if len(s) != 36 {
		return false
	}
	for i, r := range s {
		dash := i == 8 || i == 13 || i == 18 || i == 23
		hex := r >= '0' && r <= '9' || r >= 'a' && r <= 'f' || r >= 'A' && r <= 'F'
		if dash != (r == '-') || !dash && !hex {
			return false
		}
	}
	return true
}
