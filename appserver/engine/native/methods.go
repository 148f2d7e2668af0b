package native

import (
	"slices"
	"strings"

	"towline/appserver/protocol"
	"towline/appserver/rpc"
)

// handler answers one request: with its result, or by calling r.Reply itself
// when notifications must follow the answer. What it returns after that is not
// sent.
type handler func(c *conn, r *rpc.Request) (result any, err error)

// method is one row of the table. Requests that only read, or take long, run
// beside the others.
type method struct {
	run      handler
	beside   bool
	noParams bool // the protocol declares it without params
}

// table is every request this engine answers but initialize.
func table() map[string]method {
	inOrder := func(h handler) method { return method{run: h} }
	beside := func(h handler) method { return method{run: h, beside: true} }
	bare := func(h handler) method { return method{run: h, noParams: true} }
	return map[string]method{
		"thread/start":       inOrder((*conn).threadStart),
		"thread/resume":      inOrder((*conn).threadResume),
		"thread/fork":        inOrder((*conn).threadFork),
		"thread/unsubscribe": inOrder((*conn).threadUnsubscribe),
		"thread/archive":     inOrder((*conn).threadArchive),
		"thread/unarchive":   inOrder((*conn).threadUnarchive),
		"thread/delete":      inOrder((*conn).threadDelete),
		"thread/name/set":    inOrder((*conn).threadNameSet),

		"thread/settings/update":  inOrder((*conn).threadSettingsUpdate),
		"thread/readState/update": inOrder((*conn).threadReadStateUpdate),
		"thread/metadata/update":  inOrder((*conn).threadMetadataUpdate),
		"thread/goal/get":         inOrder((*conn).threadGoalGet),
		"thread/goal/set":         inOrder((*conn).threadGoalSet),
		"thread/goal/clear":       inOrder((*conn).threadGoalClear),

		"thread/read":        beside((*conn).threadRead),
		"thread/list":        beside((*conn).threadList),
		"thread/search":      beside((*conn).threadSearch),
		"thread/loaded/list": beside((*conn).threadLoadedList),
		"thread/turns/list":  beside((*conn).threadTurnsList),
		"thread/items/list":  beside((*conn).threadItemsList),
		"thread/items/read":  beside((*conn).threadItemsRead),

		"thread/searchOccurrences": beside((*conn).threadSearchOccurrences),

		"turn/start":           inOrder((*conn).turnStart),
		"turn/steer":           inOrder((*conn).turnSteer),
		"turn/interrupt":       inOrder((*conn).turnInterrupt),
		"turn/settings/update": inOrder((*conn).turnSettingsUpdate),
		"thread/compact/start": inOrder((*conn).compactStart),
		"thread/shellCommand":  inOrder((*conn).shellCommand),
		"thread/queue/add":     inOrder((*conn).queueAdd),
		"thread/queue/list":    inOrder((*conn).queueList),
		"thread/queue/delete":  inOrder((*conn).queueDelete),
		"thread/queue/update":  inOrder((*conn).queueUpdate),
		"thread/queue/reorder": inOrder((*conn).queueReorder),
		"thread/queue/start":   inOrder((*conn).queueStart),

		"thread/backgroundTerminals/list":      inOrder((*conn).terminalsList),
		"thread/backgroundTerminals/terminate": inOrder((*conn).terminalsTerminate),
		"thread/backgroundTerminals/clean":     inOrder((*conn).terminalsClean),

		"command/exec":           beside((*conn).commandExec),
		"command/exec/write":     inOrder((*conn).commandExecWrite),
		"command/exec/resize":    inOrder((*conn).commandExecResize),
		"command/exec/terminate": inOrder((*conn).commandExecTerminate),
		"process/spawn":          inOrder((*conn).processSpawn),
		"process/writeStdin":     inOrder((*conn).processWriteStdin),
		"process/resizePty":      inOrder((*conn).processResizePty),
		"process/kill":           inOrder((*conn).processKill),

		"fs/readFile":        beside((*conn).fsReadFile),
		"fs/writeFile":       inOrder((*conn).fsWriteFile),
		"fs/createDirectory": inOrder((*conn).fsCreateDirectory),
		"fs/getMetadata":     beside((*conn).fsGetMetadata),
		"fs/readDirectory":   beside((*conn).fsReadDirectory),
		"fs/remove":          inOrder((*conn).fsRemove),
		"fs/copy":            inOrder((*conn).fsCopy),
		"fs/watch":           inOrder((*conn).fsWatch),
		"fs/unwatch":         inOrder((*conn).fsUnwatch),

		"fuzzyFileSearch":               beside((*conn).fuzzySearch),
		"fuzzyFileSearch/sessionStart":  inOrder((*conn).fuzzySessionStart),
		"fuzzyFileSearch/sessionUpdate": inOrder((*conn).fuzzySessionUpdate),
		"fuzzyFileSearch/sessionStop":   inOrder((*conn).fuzzySessionStop),

		"model/list":              inOrder((*conn).modelList),
		"config/read":             inOrder((*conn).configRead),
		"config/value/write":      inOrder((*conn).configValueWrite),
		"config/batchWrite":       inOrder((*conn).configBatchWrite),
		"configRequirements/read": bare((*conn).configRequirementsRead),

		"account/read":                              beside((*conn).accountRead),
		"account/rateLimits/read":                   bare((*conn).accountRateLimitsRead),
		"account/usage/read":                        bare((*conn).accountUsageRead),
		"account/login/start":                       beside((*conn).accountLoginStart),
		"account/login/cancel":                      inOrder((*conn).accountLoginCancel),
		"account/logout":                            {run: (*conn).accountLogout, noParams: true, beside: true},
		"getAuthStatus":                             beside((*conn).getAuthStatus),
		"accountSession/list":                       inOrder(fixed(map[string]any{"activeSessionId": nil, "sessions": []int{}})),
		"account/gatewayOAuth/read":                 bare((*conn).gatewayOAuthRead),
		"account/bedrock/checkGovCloudRequirements": inOrder(fixed(map[string]bool{"isGovCloud": false, "shouldWarn": false})),

		"modelProvider/list":              inOrder((*conn).modelProviderList),
		"modelProvider/capabilities/read": inOrder(fixed(map[string]bool{"imageGeneration": false, "webSearch": false})),
		"collaborationMode/list":          inOrder(fixed(collaborationModes)),
		"permissionProfile/list":          inOrder(fixed(permissionProfiles)),
		"hooks/list":                      inOrder((*conn).hooksList),
		"skills/list":                     inOrder((*conn).skillsList),
		"plugin/installed":                inOrder(fixed(map[string][]int{"marketplaces": {}, "marketplaceLoadErrors": {}})),
		"plugin/list":                     inOrder(fixed(map[string][]int{"marketplaces": {}, "marketplaceLoadErrors": {}, "featuredPluginIds": {}})),
		"app/list":                        inOrder(fixed(emptyPage)),
		"mcpServerStatus/list":            inOrder(fixed(emptyPage)),
		"experimentalFeature/list":        inOrder(fixed(emptyPage)),
		"project/list":                    inOrder(fixed(emptyPage)),
		"thread/attachment/list":          inOrder(fixed(emptyPage)),
		"threadSection/list":              inOrder(fixed(emptyPage)),
		"remoteControl/status/read":       bare((*conn).remoteControlStatusRead),
		"remoteControl/enable":            {run: (*conn).remoteControlEnable, noParams: true, beside: true},
		"remoteControl/disable":           {run: (*conn).remoteControlDisable, noParams: true, beside: true},
		"remoteControl/client/list":       inOrder((*conn).remoteClientList),
		"remoteControl/client/revoke":     inOrder((*conn).remoteClientRevoke),
		"remoteControl/pairing/start":     inOrder((*conn).remotePairingStart),
		"remoteControl/pairing/status":    inOrder((*conn).remotePairingStatus),
	}
}

// fixed answers with the same result every time.
func fixed(result any) handler {
	return func(*conn, *rpc.Request) (any, error) { return result, nil }
}

// page is the shape of every list without a next page.
type page struct {
	Data       any     `json:"data"`
	NextCursor *string `json:"nextCursor"`
}

var emptyPage = page{Data: []int{}}

// unknownMethod is Codex's answer to a method it does not have.
func (e *Engine) unknownMethod(name string) error {
	known := make([]string, 0, len(e.methods)+1)
	known = append(known, "`initialize`")
	for m := range e.methods {
		known = append(known, "`"+m+"`")
	}
	slices.Sort(known)
	return protocol.Errorf("Invalid request: unknown variant `%s`, expected one of %s", name, strings.Join(known, ", "))
}
