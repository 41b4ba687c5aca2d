package e2e_test

import (
	"crypto/tls"
	"log"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"strings"
	"time"
)

// nginxVariable makes the test binary play Harbor's nginx. It is set to
// "ADDRESS CERTIFICATE KEY URL": where to listen with TLS, and where to pass what
// begins with /v2/.
const nginxVariable = "COUNTERSIGN_E2E_NGINX"

func runNginx(config string) error {
	f := strings.Fields(config)
	cert, err := tls.LoadX509KeyPair(f[1], f[2])
	if err != nil {
		return err
	}
	to, err := url.Parse(f[3])
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.Handle("/v2/", &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(to)
			r.Out.Host = r.In.Host
			r.SetXForwarded()
		},
		ErrorLog: log.New(os.Stderr, "", 0),
	})
	srv := &http.Server{Addr: f[0], Handler: mux, ReadHeaderTimeout: 10 * time.Second, TLSConfig: &tls.Config{Certificates: []tls.Certificate{cert}}}
	return srv.ListenAndServeTLS("", "")
}
