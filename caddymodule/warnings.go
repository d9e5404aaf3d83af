package caddymodule

import (
	"net/http"
	"time"

	"go.uber.org/zap"
	"golang.org/x/time/rate"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/peer"
)

// warnings logs the warnings that every request could cause. It logs each kind at most once a minute.
type warnings struct {
	logger                        *zap.Logger
	credential                    string
	ofClient, ofCrossSite, ofLoop rate.Sometimes
}

const warnInterval = time.Minute

func newWarnings(logger *zap.Logger, credential string) *warnings {
	seldom := func() rate.Sometimes { return rate.Sometimes{Interval: warnInterval} }
	return &warnings{logger: logger, credential: credential, ofClient: seldom(), ofCrossSite: seldom(), ofLoop: seldom()}
}

func (w *warnings) client(r *http.Request) {
	w.ofClient.Do(func() {
		socket, _ := peer.Addrs(r)
		w.logger.Warn("denied a client, because every client that reaches this listener acts as the credential; bind the site to loopback, or allow the client with the option clients",
			zap.String("credential", w.credential),
			zap.String("remote", r.RemoteAddr),
			zap.Any("socket", socket)) // another address, if a listener wrapper shows one; null, if a wrapper hides the socket
	})
}

func (w *warnings) crossSite(r *http.Request) {
	w.ofCrossSite.Do(func() {
		w.logger.Warn("denied a request that a browser made for a page of another site, because that page would act as the credential; if it is a page of the application, set the option cross_site to allow",
			zap.String("credential", w.credential),
			zap.String("site", siteOf(r)))
	})
}

func (w *warnings) loop() {
	w.ofLoop.Do(func() {
		w.logger.Error("denied a request that keeps coming back, because the upstream's name leads to this proxy; make the name lead to the API in this process, or set the address of the API as the upstream",
			zap.String("credential", w.credential))
	})
}
