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
			"app/list", "app/read", "app/installed", "mcpServerStatus/list", "environment/info", "environment/status",
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

// RunsOutsideSandbox reports whether a method reaches files or runs programs
// without Codex's sandbox: a connection that may call it is worth a shell
// account. The gate can switch the whole family off.
func RunsOutsideSandbox(method string) bool {
	switch method {
	case "command/exec", "command/exec/write", "command/exec/terminate", "command/exec/resize",
		"process/spawn", "process/writeStdin", "process/kill", "process/resizePty",
		"fs/readFile", "fs/writeFile", "fs/createDirectory", "fs/getMetadata", "fs/readDirectory",
		"fs/remove", "fs/copy", "fs/watch", "fs/unwatch", "thread/shellCommand":
		return true
	}
	return false
}
