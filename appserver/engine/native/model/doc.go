// Package model speaks the Responses API of any compatible endpoint.
package model
