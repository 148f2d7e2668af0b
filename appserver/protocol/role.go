package protocol

import "fmt"

// Role is what a principal may do; each role includes the ones below it. The
// zero value is RoleNone, which may do nothing, so a forgotten role fails closed.
type Role uint8

// The roles, least first.
const (
	RoleNone     Role = iota
	RoleObserver      // reads
	RoleApprover      // also answers approvals and interrupts turns
	RoleOperator      // also starts turns, steers, runs commands, touches files
	RoleAdmin         // also manages keys, tokens, devices and accounts
)

var roleNames = [...]string{"none", "observer", "approver", "operator", "admin"}

func (r Role) String() string {
	if int(r) < len(roleNames) {
		return roleNames[r]
	}
	return "none"
}

// ParseRole reads a role by name; "none" is not a role anyone may be given.
func ParseRole(s string) (Role, error) {
	for i, n := range roleNames[1:] {
		if s == n {
			return Role(i + 1), nil
		}
	}
	return RoleNone, fmt.Errorf("unknown role %q: use observer, approver, operator or admin", s)
}

// MarshalText writes the role's name.
func (r Role) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// UnmarshalText reads what MarshalText writes.
func (r *Role) UnmarshalText(b []byte) error {
	if string(b) == "none" {
		*r = RoleNone
		return nil
	}
	v, err := ParseRole(string(b))
	if err != nil {
		return err
	}
	*r = v
	return nil
}

// LeastRole is the role a request needs. A method the table does not know needs
// RoleOperator: a newer Codex keeps working for the person who owns the host,
// and nobody with less gains anything from not being understood.
func LeastRole(method string) Role {
	if r, ok := leastRole[method]; ok {
		return r
	}
	return RoleOperator
}

// leastRole lists every method that needs less or more than RoleOperator. What
// is absent either runs things, changes things, or is unknown.
var leastRole = func() map[string]Role {
	m := make(map[string]Role, 128)
	for role, methods := range map[Role][]string{
		RoleObserver: {
			"initialize",
			"thread/list", "thread/loaded/list", "thread/read", "thread/turns/list", "thread/items/list",
			"thread/items/read", "thread/search", "thread/searchOccurrences", "thread/timeline/list",
			// Resuming subscribes. It can also change settings and write history:
			// for less than an operator the gate strips all but the subscription.
			"thread/resume", "thread/unsubscribe", "thread/readState/update",
			"thread/goal/get", "thread/queue/list", "thread/attachment/list", "thread/attachmentOwner/list",
			"thread/backgroundTerminals/list", "threadSection/list", "project/list", "project/read",
			"model/list", "modelProvider/list", "modelProvider/capabilities/read", "collaborationMode/list",
			"permissionProfile/list", "experimentalFeature/list", "skills/list", "hooks/list", "memory/status",
			"plugin/list", "plugin/installed", "plugin/read", "plugin/skill/read", "plugin/search",
			"app/list", "app/read", "app/installed", "environment/info", "environment/status",
			// It holds what the owner gave to MCP servers and providers, secrets too:
			// for less than an operator the gate answers with an empty one.
			"config/read", "configRequirements/read", "account/read", "account/rateLimits/read", "account/usage/read",
			"account/gatewayOAuth/read", "account/workspaceMessages/read", "account/bedrock/checkGovCloudRequirements",
			"remoteControl/status/read", "server/diagnostics", "windowsSandbox/readiness",
			ExtSession, ExtPresence, ExtApprovalList, ExtStatus,
		},
		RoleApprover: {
			"turn/interrupt", "thread/approveGuardianDeniedAction", ExtApprovalAnswer,
		},
		RoleAdmin: {
			"account/login/start", "account/login/cancel", "account/logout", "accountSession/list", "accountSession/switch",
			"account/gatewayOAuth/login", "account/gatewayOAuth/cancel", "account/bedrock/discover", "account/bedrock/setup",
			"account/gcp/setup", "account/securitySetup/read", "account/sendAddCreditsNudgeEmail",
			"account/rateLimitResetCredit/consume", "mcpServer/oauth/login",
			"userVerification/status", "userVerification/enroll", "userVerification/delete", "userVerification/verify", "userVerification/cancel",
			"remoteControl/enable", "remoteControl/disable", "remoteControl/pairing/start", "remoteControl/pairing/status",
			"remoteControl/client/list", "remoteControl/client/revoke",
			"modelProvider/config/write", "externalAgentConfig/import", "feedback/upload",
			ExtCredentialNote, ExtTokenCreate, ExtTokenList, ExtTokenShow, ExtTokenRotate, ExtTokenRevoke, ExtRemoteControl, ExtHandOver,
			// Codex hands the bearer token to any client that asks here.
			"getAuthStatus",
		},
	} {
		for _, name := range methods {
			m[name] = role
		}
	}
	return m
}()

// AnswerRole is the role an answer to a request of the engine's needs: approving
// is for people who approve. What programs answer becomes the model's input, as
// a turn would, or the account the host works with; an approver must not get
// there by being asked.
func AnswerRole(method string) Role {
	switch {
	case IsApproval(method):
		return RoleApprover
	case method == ReqTokensRefresh, method == ReqAttestation:
		return RoleAdmin
	}
	return RoleOperator
}

// AuditEvent names the event under which the gate records that a request was
// passed on, "" for those it does not record: what starts or changes work, what
// runs or writes outside the sandbox, and what changes the rules.
func AuditEvent(method string) string {
	switch method {
	case "turn/start", "turn/steer", "turn/interrupt", "review/start", "thread/compact/start", "thread/queue/add", "thread/queue/start",
		"thread/realtime/start":
		return "turn"
	case "thread/revert", "thread/inject_items", "thread/archive", "thread/unarchive", "thread/delete":
		return "thread"
	case "command/exec", "process/spawn", "thread/shellCommand", "mcpServer/tool/call",
		"fs/writeFile", "fs/createDirectory", "fs/remove", "fs/copy":
		return "run"
	case "config/value/write", "config/batchWrite", "skills/config/write", "experimentalFeature/enablement/set", "thread/settings/update",
		"turn/settings/update", "thread/approveGuardianDeniedAction", "environment/add", "plugin/install", "plugin/uninstall",
		"marketplace/add", "marketplace/remove", "marketplace/upgrade", "config/mcpServer/reload":
		return "policy"
	}
	switch method {
	case AccountStart:
		return EventLogin // or EventLend, which the params tell
	case AccountLogout:
		return "account.logout"
	}
	if leastRole[method] == RoleAdmin {
		return "admin"
	}
	return ""
}

// Audit events of account/login/start: one that logs in, and one that lends.
const (
	EventLogin = "account.login"
	EventLend  = "account.lend"
)

// RunsOutsideSandbox reports whether a method reaches files or runs programs
// without Codex's sandbox: a connection that may call it is worth a shell
// account. The gate can switch the whole family off.
func RunsOutsideSandbox(method string) bool {
	switch method {
	case "command/exec", "command/exec/write", "command/exec/terminate", "command/exec/resize",
		"process/spawn", "process/writeStdin", "process/kill", "process/resizePty",
		"fs/readFile", "fs/writeFile", "fs/createDirectory", "fs/getMetadata", "fs/readDirectory",
		"fs/remove", "fs/copy", "fs/watch", "fs/unwatch", "thread/shellCommand", "mcpServer/tool/call":
		return true
	}
	return false
}
