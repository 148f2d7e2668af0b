// Package agent is the turn loop: it samples the model, runs the tools the model
// calls under the thread's approval and sandbox rules, and tells a [Sink] what
// happens. It keeps no files and knows no connections: package thread stores,
// package native serves.
//
// Start at [NewSession] and [Session.Run].
//
// # What the model sees
//
// Each request replays, in this order: the base instructions (a developer
// message, not recorded), then the recorded history. The first things recorded
// are the permissions in force (developer), the project's AGENTS.md files and the
// environment (both user messages, in the tagged form Codex uses); each is
// recorded again only when it has changed since. Tools carry Codex's names and
// shapes, so that a model tuned for Codex is at home: exec_command, write_stdin,
// apply_patch (freeform), update_plan, view_image, and request_user_input in
// plan mode, besides the tools the client brought itself.
//
// # Order of things
//
// An item of the model is recorded before it is acted upon, the outputs of its
// calls in call order once the response ended. What a kill leaves half done is
// made replayable by [Repair].
//
// # Locks
//
// Session.tell serialises the sink; Session.mu guards the session's state and is
// never held while the sink, the model or a process is called. command.mu may be
// held while tell is taken.
package agent
