//go:build !race

package sshd

// stormClients is how many clients resize and vanish.
const stormClients = 200
