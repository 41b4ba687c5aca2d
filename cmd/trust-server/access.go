package main

import (
	"context"
	"net/http"
	"slices"
	"strings"
	"time"

	"countersign/internal/config"
	"countersign/server/auth"
)

// A gate decides who may do what, by files that it reads again when they change.
type gate interface {
	Authorize(r *http.Request, need []auth.Access) (subject string, err error)
	Watch(ctx context.Context)
}

// openGate makes the gate that the configuration asks for, nil if it asks for
// none. What is wrong with its files is added to the report, unless the
// configuration is wrong about them already.
func (d *daemon) openGate(report *config.Report) gate {
	a := d.cfg.Auth
	if slices.ContainsFunc(report.Faults, func(f config.Fault) bool { return isAuth(f.Key) }) {
		return nil
	}
	o := a.Options
	switch a.Type {
	case config.AuthToken:
		t, err := auth.NewTokens(auth.TokenConfig{
			Realm: o.Realm, Service: o.Service, Issuer: o.Issuer, RootCertBundle: o.RootCertBundle, Autoredirect: o.Autoredirect,
			FullAccessActions: o.FullAccessActions, Log: d.Log, Now: time.Now,
		})
		if err == nil {
			return t
		}
		tell(report, "auth.options.rootcertbundle", err)
	case config.AuthHtpasswd:
		h, err := auth.NewHtpasswd(auth.HtpasswdConfig{Realm: o.Realm, Path: o.Path, Policy: o.Policy, Log: d.Log, Now: time.Now})
		if err == nil {
			return h
		}
		tell(report, "auth.options", err)
	}
	return nil
}

// tell adds what err says to the report, each joined error by itself and without
// the key, which the fault names.
func tell(report *config.Report, key string, err error) {
	faults := []error{err}
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		faults = joined.Unwrap()
	}
	for _, err := range faults {
		report.Faults = append(report.Faults, config.Fault{Key: key, Problem: strings.TrimPrefix(err.Error(), key+": ")})
	}
}

func isAuth(key string) bool {
	return key == "auth" || len(key) > 4 && key[:5] == "auth."
}
