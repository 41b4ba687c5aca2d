// Command tokenservice is a token service for the tests of this module: it
// speaks the token protocol of the registry, by GET with Basic authentication
// and by OAuth's POST, and its tokens have the claims of Harbor's. It also makes
// tokens that every server must refuse. It is no part of what users get.
//
// A client chooses what it gets by the path of the realm: /service/token, or
// /with/WORDS/service/token with the words of [parseStyle], joined by commas.
package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// A config is the configuration file. Relative paths in it are relative to the
// working directory.
type config struct {
	Addr string // to listen on, host:port
	TLS  keyFiles

	Issuer string
	// Services says of each service that tokens can be for whether its
	// repositories are named with the registry's host.
	Services map[string]struct{ Host bool }
	// Keys sign tokens. The one named "default" does where no other is asked for.
	Keys   map[string]keyFiles
	Users  map[string]user
	Public []string // projects that anybody may pull from
}

// keyFiles name a certificate and its private key, both in PEM.
type keyFiles struct{ Cert, Key string }

// A user is somebody with a password.
type user struct {
	Password string
	// Projects lists permissions by project: pull, push, delete, scanner-pull
	// and manage, Harbor's word for an administrator of the project.
	Projects map[string][]string
	// Catalog allows registry:catalog:*. No user of Harbor has it.
	Catalog bool
}

func main() {
	file := flag.String("config", "", "configuration `file`")
	flag.Parse()
	if err := run(*file); err != nil {
		log.Fatal("tokenservice: ", err)
	}
}

// run serves until SIGTERM or SIGINT.
func run(file string) error {
	raw, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	var cfg config
	if err := json.Unmarshal(raw, &cfg); err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	s, err := newService(cfg)
	if err != nil {
		return err
	}
	cert, err := tls.LoadX509KeyPair(cfg.TLS.Cert, cfg.TLS.Key)
	if err != nil {
		return err
	}
	lis, err := net.Listen("tcp", cfg.Addr)
	if err != nil {
		return err
	}
	srv := &http.Server{Handler: s.handler(), ReadTimeout: 10 * time.Second, WriteTimeout: 10 * time.Second}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	context.AfterFunc(ctx, func() { _ = srv.Close() })
	err = srv.Serve(tls.NewListener(lis, &tls.Config{Certificates: []tls.Certificate{cert}}))
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}
