package gate

import (
	"fmt"
	"strings"
	"testing"

	"towline/appserver/protocol"
)

// codexMethods are the requests of Codex 0.169.0, as its own schema lists them.
const codexMethods = `
account/bedrock/checkGovCloudRequirements account/bedrock/discover account/bedrock/setup account/gatewayOAuth/cancel
account/gatewayOAuth/login account/gatewayOAuth/read account/gcp/setup account/login/cancel account/login/start
account/logout account/rateLimitResetCredit/consume account/rateLimits/read account/read account/securitySetup/read
account/sendAddCreditsNudgeEmail account/usage/read account/workspaceMessages/read accountSession/list
accountSession/switch app/installed app/list app/read collaborationMode/list command/exec command/exec/resize
command/exec/terminate command/exec/write config/batchWrite config/mcpServer/reload config/read config/value/write
configRequirements/read environment/add environment/info environment/status experimentalFeature/enablement/set
experimentalFeature/list externalAgentConfig/detect externalAgentConfig/import
externalAgentConfig/import/readHistories externalAgentConfig/import/recordHistory feedback/save feedback/upload
fs/copy fs/createDirectory fs/getMetadata fs/readDirectory fs/readFile fs/remove fs/unwatch fs/watch fs/writeFile
fuzzyFileSearch fuzzyFileSearch/sessionStart fuzzyFileSearch/sessionStop fuzzyFileSearch/sessionUpdate hooks/list
initialize marketplace/add marketplace/remove marketplace/upgrade mcpServer/event/stream/start
mcpServer/event/stream/stop mcpServer/oauth/login mcpServer/resource/read mcpServer/tool/call mcpServerStatus/list
memory/reset memory/status mock/experimentalMethod model/list modelProvider/capabilities/read
modelProvider/config/write modelProvider/list permissionProfile/list plugin/install plugin/installed plugin/list
plugin/read plugin/reconcile plugin/search plugin/share/checkout plugin/share/delete plugin/share/list
plugin/share/save plugin/share/updateTargets plugin/skill/read plugin/uninstall process/kill process/resizePty
process/spawn process/writeStdin project/create project/delete project/import project/list project/move project/read
project/update remoteControl/client/list remoteControl/client/revoke remoteControl/disable remoteControl/enable
remoteControl/pairing/start remoteControl/pairing/status remoteControl/status/read review/start rollout/compress
server/diagnostics skills/config/write skills/extraRoots/set skills/list thread/approveGuardianDeniedAction
thread/archive thread/attachment/add thread/attachment/list thread/attachment/remove thread/attachmentOwner/list
thread/backgroundTerminals/clean thread/backgroundTerminals/list thread/backgroundTerminals/terminate
thread/compact/start thread/decrement_elicitation thread/delete thread/fork thread/goal/clear thread/goal/get
thread/goal/set thread/guardianReview thread/increment_elicitation thread/inject_items thread/items/list
thread/items/read thread/list thread/loaded/list thread/memory/read thread/memoryMode/set thread/metadata/update
thread/name/set thread/prediction/request thread/prepareApprovedPlan thread/queue/add thread/queue/delete
thread/queue/list thread/queue/reorder thread/queue/start thread/queue/update thread/read thread/readState/update
thread/realtime/appendAudio thread/realtime/appendSpeech thread/realtime/appendText thread/realtime/listVoices
thread/realtime/start thread/realtime/stop thread/resume thread/revert thread/sample thread/sample/cancel
thread/search thread/searchOccurrences thread/section/move thread/settings/update thread/shellCommand thread/start
thread/timeline/list thread/turns/list thread/unarchive thread/unsubscribe threadSection/create threadSection/delete
threadSection/list threadSection/update turn/interrupt turn/settings/update turn/start turn/steer
userVerification/cancel userVerification/delete userVerification/enroll userVerification/status
userVerification/verify windowsSandbox/readiness windowsSandbox/setupStart`

// execMethods are those that reach the engine from the scope exec, when they name
// a thread of the principal's own or none.
const execMethods = `initialize thread/start thread/fork thread/resume thread/unsubscribe thread/read thread/turns/list thread/items/list
thread/items/read thread/name/set thread/list thread/loaded/list turn/start turn/steer turn/interrupt model/list
thread/backgroundTerminals/list thread/backgroundTerminals/clean thread/backgroundTerminals/terminate configRequirements/read`

// Of all there is, exec lets through what it is for; the engine hears of nothing
// else, and whoever asks hears what it takes.
func TestExecIsWhatExecNeeds(t *testing.T) {
	dir := t.TempDir()
	r := newRig(t, func(c *Config) { c.Project = dir }, false)
	p := r.joinScoped("ci", protocol.RoleOperator, "exec")
	own := p.startThread()
	r.e.startTurn(own, "t1") // it has been on disk since, and can be resumed
	want := make(map[string]bool)
	for _, m := range strings.Fields(execMethods) {
		want[m] = true
	}
	ours := []string{
		protocol.ExtSession, protocol.ExtPresence, protocol.ExtApprovalList, protocol.ExtStatus, protocol.ExtApprovalAnswer,
		protocol.ExtCredentialNote, protocol.ExtTokenCreate, protocol.ExtTokenList, protocol.ExtTokenRevoke, protocol.ExtRemoteControl, protocol.ExtHandOver,
		"thread/somethingNew", "getAuthStatus", "Thread/Read", "thread/read ",
	}
	for _, m := range append(strings.Fields(codexMethods), ours...) {
		if m == "initialize" {
			continue
		}
		r.e.forgetSeen()
		params := map[string]any{}
		if rule, ok := protocol.ScopedMethod(m); ok && rule.Reach == protocol.ReachThread {
			params["threadId"] = own
		}
		_, err := p.call(m, params)
		reached := r.e.saw(m)
		if reached != want[m] {
			t.Errorf("%s reached the engine: %v (%v)", m, reached, err)
		}
		rule, known := protocol.ScopedMethod(m)
		if !known || !rule.Exec {
			if err == nil || !strings.Contains(err.Error(), "scope") && !strings.Contains(err.Error(), "role") {
				t.Errorf("%s was answered %v", m, err)
			}
		} else if err != nil {
			t.Errorf("%s: %v", m, err)
		}
	}
}

// Within other scopes more is possible, by role; never what runs outside the
// sandbox, changes the host or shows its accounts.
func TestNoScopeHoldsTheHost(t *testing.T) {
	dir := t.TempDir()
	r := newRig(t, func(c *Config) { c.Project = dir }, false)
	for _, role := range []protocol.Role{protocol.RoleObserver, protocol.RoleApprover, protocol.RoleOperator, protocol.RoleAdmin} {
		p := r.joinScoped(fmt.Sprint("p-", role), role, "project:"+dir)
		for _, m := range strings.Fields(codexMethods) {
			host := protocol.RunsOutsideSandbox(m) || protocol.LeastRole(m) == protocol.RoleAdmin
			for _, prefix := range []string{
				"fs/", "process/", "command/", "config/", "account/", "accountSession/", "environment/", "plugin/", "marketplace/", "mcpServer/",
				"fuzzyFileSearch", "externalAgentConfig/", "feedback/", "userVerification/", "remoteControl/", "skills/", "hooks/", "project/", "memory/",
			} {
				host = host || strings.HasPrefix(m, prefix)
			}
			if !host {
				continue
			}
			r.e.forgetSeen()
			_, _ = p.call(m, map[string]any{})
			if r.e.saw(m) {
				t.Errorf("%s reached the engine from a scoped %s", m, role)
			}
		}
	}
}
