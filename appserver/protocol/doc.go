// Package protocol holds the words of the Codex app-server protocol that
// Towline itself reads or writes, and the table that says which role may use
// which method. It does no I/O.
//
// # Wire format
//
// The protocol is JSON-RPC 2.0 without the "jsonrpc" member. One message is one
// JSON object; how messages are told apart on a byte stream is package rpc's
// business. Four shapes exist:
//
//	request       {"id":ID,"method":M,"params":{…}}     either side
//	response      {"id":ID,"result":{…}}                to a request
//	error         {"id":ID,"error":{"code":N,"message":S,"data":…}}
//	notification  {"method":M,"params":{…}}             no id, no answer
//
// An ID is a string or a signed 64-bit integer. Key order is not fixed. Unknown
// members are allowed everywhere and must survive when a message is passed on,
// so whoever relays a message keeps its bytes ([Peek]) and never re-encodes it.
//
// Start reading at [Peek] for relays, at [Thread], [Turn] and [Item] for peers.
package protocol
