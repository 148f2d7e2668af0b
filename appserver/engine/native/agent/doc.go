// Package agent is the turn loop: it samples the model, runs the tools it calls
// under the thread's approval and sandbox rules, and tells a [Sink] about it.
package agent
