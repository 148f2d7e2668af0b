//go:build race

package sshd

// stormClients is less under the race detector, where each costs twenty times as much.
const stormClients = 40
