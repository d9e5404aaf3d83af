// Package share lets replicas that use one credential keep one token between them, through a [Store] that the operator
// runs. It seals what it stores, claims the right to call the token endpoint, and turns whatever goes wrong with the store
// into a miss.
package share
