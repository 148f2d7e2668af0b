package sandbox

import "strings"

// Denied guesses whether a command that ended with exitCode and this output
// failed because of its confinement, so that running it without may be offered.
// Programs report refusals only in words; a wrong guess costs one question.
func Denied(exitCode int, output string) bool {
	switch exitCode {
	case 0,
		2,   // usage, by convention
		127, // no such program
		ExitHelper,
		130: // interrupted
		return false
	case 128 + 31: // SIGSYS
		return true
	}
	const look = 64 << 10 // the refusal stands at the end
	if len(output) > look {
		output = output[len(output)-look:]
	}
	output = strings.ToLower(output)
	for _, sign := range []string{
		"operation not permitted", "permission denied", "read-only file system", "eperm", "eacces", "erofs",
		"could not resolve host", "temporary failure in name resolution", "name or service not known", "network is unreachable",
		"eai_again", "enetunreach", "no address associated with hostname",
	} {
		if strings.Contains(output, sign) {
			return true
		}
	}
	return false
}
