package main

// takeOverFlag, among the arguments of a `serve` or an `app-server`, makes it
// succeed the daemon that runs with the same home: it takes that one's listeners,
// and turns at work end where they run. When it cannot, it ends with an error and
// the old one goes on as if nothing had happened. Whoever starts it that way
// knows that it has taken over by config.Paths.Holder, which then names it, or by
// its ready line.
const takeOverFlag = "--take-over"
