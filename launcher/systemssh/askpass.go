package systemssh

// AskpassCommand is the hidden command ssh's questions arrive with.
const AskpassCommand = "__askpass"

// AskpassArgs turns the command line ssh starts this program with, to ask a
// question, into that of [AskpassCommand]. Others it returns as they are.
func AskpassArgs(args []string) []string { return args }

// Askpass is the other end of [Dial]'s questions: it hands ssh's prompt to the
// program that runs ssh, and writes the answer to stdout for ssh to read. It
// returns the process's exit status.
func Askpass(prompt string) int { return 1 }
