// Package tenants has the tenants of a credential at run time: their names and places, one source for each, and their limits.
// What an operator configures of them, and the part of a request that names them, is in package caddymodule.
package tenants
