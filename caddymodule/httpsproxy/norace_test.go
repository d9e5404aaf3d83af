//go:build !race

package httpsproxy_test

const raceDetector = false
