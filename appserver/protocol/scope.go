package protocol

import "slices"

// Reach says what of a request decides whether a scope lets it through.
type Reach uint8

// The reaches.
const (
	// ReachNone: nothing in the request names what is somebody's.
	ReachNone Reach = iota
	// ReachThread: params.threadId names a thread that must be within the scope.
	ReachThread
	// ReachNew: the request makes a thread, which must work within the scope.
	ReachNew
	// ReachList: the answer lists threads; those out of the scope are left out.
	ReachList
	// ReachBlank: the gate answers, with nothing in it. Clients cannot start without
	// an answer, and what it would hold is not theirs.
	ReachBlank
)

// Scoped is how a principal with a scope may use a method. The role the method
// needs comes on top.
type Scoped struct {
	Reach Reach
	// Exec: the scope exec holds it too.
	Exec bool
	// Params are the members the request may have. One that is not named here is
	// refused, unless it is null: what a newer engine may make of it is unknown.
	Params []string
}

// ScopedMethod tells how a method may be used within a scope; false when it may
// not. A method the table does not know is out of every scope: fs/*, process/*,
// command/exec, thread/shellCommand, what changes the configuration, accounts,
// credentials, and whatever a newer engine adds.
func ScopedMethod(method string) (Scoped, bool) {
	s, ok := scoped[method]
	return s, ok
}

// ScopedNotification reports whether a client with a scope is told what concerns
// no thread, or no one alone. The rest is about others, or about the host.
func ScopedNotification(method string) bool { return method == "deprecationNotice" }

// Members by which requests say what a thread runs with. What each may be is the
// gate's to decide (scope_params.go).
var (
	newThread = []string{
		"cwd", "model", "serviceTier", "approvalPolicy", "approvalsReviewer", "sandbox", "permissions", "config", "runtimeWorkspaceRoots",
		"baseInstructions", "developerInstructions", "personality", "environments", "dynamicTools", "selectedCapabilityRoots",
		"allowProviderModelFallback", "ephemeral", "historyMode", "threadSource", "sessionStartSource", "serviceName", "experimentalRawEvents",
	}
	newTurn = []string{
		"cwd", "model", "serviceTier", "approvalPolicy", "approvalsReviewer", "sandboxPolicy", "permissions", "runtimeWorkspaceRoots",
		"effort", "summary", "personality", "collaborationMode", "environments",
	}
	message = []string{"threadId", "input", "clientUserMessageId"}
	paging  = []string{"cursor", "limit", "sortKey", "sortDirection"}
)

func thread(exec bool, more ...string) Scoped {
	return Scoped{Reach: ReachThread, Exec: exec, Params: append([]string{"threadId"}, more...)}
}

func blank() Scoped { return Scoped{Reach: ReachBlank, Exec: true} }

var scoped = map[string]Scoped{
	"initialize": {Exec: true},

	// What `towline exec` does: start, read, steer, interrupt, wait.
	"thread/start": {Reach: ReachNew, Exec: true, Params: newThread},
	"thread/resume": {Reach: ReachThread, Exec: true, Params: append(slices.Clone(newThread),
		"threadId", "excludeTurns", "initialTurnsPage")},
	"thread/fork": {Reach: ReachThread, Exec: true, Params: append(slices.Clone(newThread),
		"threadId", "lastTurnId", "beforeTurnId", "excludeTurns")},
	"thread/unsubscribe": thread(true),
	"thread/read":        thread(true, "includeTurns"),
	"thread/turns/list":  thread(true, "cursor", "limit", "sortDirection", "itemsView"),
	"thread/items/list":  thread(true, "cursor", "limit", "sortDirection", "turnId", "deferOutput"),
	"thread/items/read":  thread(true, "turnId", "itemIds"),
	"thread/name/set":    thread(true, "name"),
	"thread/list": {Reach: ReachList, Exec: true, Params: append(slices.Clone(paging),
		"searchTerm", "archived", "cwd", "modelProviders", "originators", "sourceKinds", "useStateDbOnly",
		"parentThreadId", "ancestorThreadId", "excludedThreadIds")},
	"thread/loaded/list": {Reach: ReachList, Exec: true, Params: paging[:2]},
	"turn/start": {Reach: ReachThread, Exec: true, Params: append(append(slices.Clone(message), newTurn...),
		"outputSchema")},
	"turn/steer":     {Reach: ReachThread, Exec: true, Params: append(slices.Clone(message), "expectedTurnId")},
	"turn/interrupt": thread(true, "turnId"),
	"model/list":     {Exec: true, Params: []string{"cursor", "limit", "includeHidden", "modelProvider"}},

	// An interrupt leaves the command that ran behind; whoever started it may end it.
	"thread/backgroundTerminals/list":      thread(true, "cursor", "limit"),
	"thread/backgroundTerminals/clean":     thread(true),
	"thread/backgroundTerminals/terminate": thread(true, "processId"),

	ExtSession: {Exec: true}, ExtPresence: {Exec: true}, ExtStatus: {Exec: true},
	ExtApprovalList: {Exec: true, Params: []string{"threadId", "open"}},

	// What else people do to a thread that is theirs to see, by role.
	ExtApprovalAnswer:           {Params: []string{"id", "result"}},
	"thread/search":             {Reach: ReachList, Params: append(slices.Clone(paging), "searchTerm", "archived", "sourceKinds")},
	"thread/searchOccurrences":  thread(false, "cursor", "limit", "searchTerm"),
	"thread/timeline/list":      thread(false, "cursor", "limit"),
	"thread/readState/update":   thread(false, "operation", "expectedRevision"),
	"thread/goal/get":           thread(false),
	"thread/goal/set":           thread(false, "objective", "origin", "status", "tokenBudget"),
	"thread/goal/clear":         thread(false, "origin"),
	"thread/queue/list":         thread(false, "cursor", "limit"),
	"thread/queue/add":          {Reach: ReachThread, Params: message},
	"thread/queue/update":       thread(false, "input", "queuedSubmissionId"),
	"thread/queue/delete":       thread(false, "queuedSubmissionId"),
	"thread/queue/reorder":      thread(false, "queuedSubmissionIds"),
	"thread/queue/start":        thread(false, "queuedSubmissionId"),
	"thread/attachment/list":    thread(false, "cursor", "limit"),
	"thread/compact/start":      thread(false),
	"thread/archive":            thread(false),
	"thread/unarchive":          thread(false),
	"thread/settings/update":    {Reach: ReachThread, Params: append(slices.Clone(newTurn), "threadId")},
	"turn/settings/update":      thread(false, "turnId", "model", "effort", "summary", "serviceTier", "approvalsReviewer", "environments"),
	"collaborationMode/list":    {},
	"permissionProfile/list":    {Params: []string{"cursor", "limit"}},
	"modelProvider/list":        {Reach: ReachBlank},
	"remoteControl/status/read": {Reach: ReachBlank},

	"config/read": blank(), "configRequirements/read": {Exec: true}, "account/read": blank(), "account/rateLimits/read": blank(),
	"skills/list": blank(), "hooks/list": blank(), "plugin/installed": blank(), "mcpServerStatus/list": blank(),
	"app/list": blank(), "experimentalFeature/list": blank(), "project/list": blank(), "threadSection/list": blank(),
}
