// Package share lets replicas that use one credential keep one token between them, through a [Store] that the operator
// runs. It seals what it stores, claims the right to call the token endpoint, and turns whatever goes wrong with the store
// into a miss.
//
// A [Guard] opens the store and bounds each call of it. A [Ring] has the keys. A [Share] puts both together, and makes a
// [Credential] of each credential, which is the token.Shared of its source.
package share
