package sqldb

import (
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"strings"
	"syscall"

	"github.com/lib/pq"
	"github.com/lib/pq/pqerror"

	"countersign/storage"
)

// connectError is why no connection was made: the driver's words, and what to
// do. Its text holds no password.
type connectError struct {
	cause error
	where string
	hint  string
}

func (e *connectError) Error() string {
	s := errConnect.Error() + " (" + e.where + "): " + e.cause.Error()
	if e.hint != "" {
		s += ": " + e.hint
	}
	return s
}

func (e *connectError) Unwrap() []error { return []error{errConnect, e.cause} }

// explain says what to do about an error of making a connection. Any of them
// may pass: in a rolling change the role, its password or the certificate may
// come a little later than the program.
func (c connector) explain(err error) error {
	cfg := c.cfg
	e := &connectError{cause: err, where: fmt.Sprintf("role %s, database %s, host %s, port %d", cfg.User, cfg.Database, cfg.Host, cfg.Port)}
	if p, ok := errors.AsType[*pq.Error](err); ok {
		e.hint = c.explainRefusal(p)
		return e
	}
	_, unknown := errors.AsType[x509.UnknownAuthorityError](err)
	name, mismatch := errors.AsType[x509.HostnameError](err)
	invalid, outdated := errors.AsType[x509.CertificateInvalidError](err)
	dns, unresolved := errors.AsType[*net.DNSError](err)
	switch {
	case unknown:
		e.hint = "the server's certificate is not from a CA that is trusted: name the CA's file in sslrootcert, as part of storage.db_url"
	case mismatch:
		e.hint = "the server's certificate is for another name"
		if name.Certificate != nil && len(name.Certificate.DNSNames) > 0 {
			e.hint += " (" + strings.Join(name.Certificate.DNSNames, ", ") + ")"
		}
		e.hint += ": use that name as host, or sslmode=verify-ca, which does not compare names"
	case outdated && invalid.Reason == x509.Expired:
		e.hint = "the server's certificate is out of date, or this machine's clock is wrong"
	case errors.Is(err, pq.ErrSSLNotSupported):
		e.hint = "the server speaks no TLS: turn ssl on there, or, in a network that you trust, set sslmode=disable"
	case errors.Is(err, pq.ErrSSLKeyHasWorldPermissions), errors.Is(err, pq.ErrSSLKeyUnknownOwnership):
		e.hint = keyHint(cfg.SSLKey)
	case errors.Is(err, fs.ErrPermission):
		e.hint = fmt.Sprintf("the user of this program (uid %d) may not read it", os.Getuid())
	case unresolved && dns.IsNotFound:
		e.hint = "no such host: is its name in storage.db_url right?"
	case errors.Is(err, syscall.ECONNREFUSED):
		e.hint = "nothing listens there: is PostgreSQL up, are host and port right?"
	case isTimeout(err):
		e.hint = "no answer: is a firewall in between, are host and port right?"
	}
	return e
}

// explainRefusal says what to do if the server itself refuses.
func (c connector) explainRefusal(p *pq.Error) string {
	switch p.Code {
	case pqerror.InvalidPassword:
		hint := "the password is wrong or missing, or the role does not exist: storage.db_password_file, storage.db_url, PGPASSWORD and the passfile are looked at in this order"
		if c.percent {
			hint += "; a % with two digits in the URL's password stands for another character: if it is meant as it stands, write % as %25"
		}
		return hint
	case pqerror.InvalidAuthorizationSpecification:
		switch {
		case strings.Contains(p.Message, "certificate"):
			return "the server wants a client certificate whose common name is the role: set sslcert and sslkey in storage.db_url"
		case strings.Contains(p.Message, "pg_hba.conf") || strings.Contains(p.Message, "encryption"):
			return "the server's pg_hba.conf does not let this role in from here: add a line there, or, if it asks for TLS, set sslmode=require or better"
		}
		return "the server does not let this role in"
	case pqerror.InvalidCatalogName:
		return fmt.Sprintf("make it, as a superuser: create database %s owner %s", quoted(c.cfg.Database), quoted(c.cfg.User))
	case pqerror.TooManyConnections:
		return "raise max_connections there, or lower storage.max_open_conns here"
	case pqerror.InsufficientPrivilege:
		return fmt.Sprintf("as the database's owner: grant connect on database %s to %s", quoted(c.cfg.Database), quoted(c.cfg.User))
	}
	return ""
}

func quoted(name string) string { return `"` + strings.ReplaceAll(name, `"`, `""`) + `"` }

func keyHint(file string) string {
	return "the mode of " + file + " must be 0600, or 0640 if root owns it: chmod 0600 it; in Kubernetes give the secret's volume defaultMode: 0440 or 0640 " +
		"and the pod an fsGroup, which makes it root's and readable by the group"
}

func isTimeout(err error) bool {
	n, ok := errors.AsType[net.Error](err)
	return ok && n.Timeout()
}

// checkFiles makes sure that the files which the URL names are there. Without
// this the driver would go on without the client certificate and, with
// sslmode=require, without the check of the server's.
func checkFiles(cfg pq.Config) error {
	if cfg.SSLInline || cfg.SSLMode == pq.SSLModeDisable {
		return nil
	}
	for _, f := range []struct{ key, file string }{{"sslrootcert", cfg.SSLRootCert}, {"sslcert", cfg.SSLCert}, {"sslkey", cfg.SSLKey}} {
		if f.file == "" || f.key == "sslrootcert" && f.file == "system" {
			continue
		}
		if _, err := os.Stat(f.file); err != nil {
			return fmt.Errorf("%w: database URL: %s: %w", storage.ErrInvalid, f.key, err)
		}
	}
	if (cfg.SSLCert == "") != (cfg.SSLKey == "") {
		return fmt.Errorf("%w: database URL: sslcert and sslkey belong together, and only one is given", storage.ErrInvalid)
	}
	return nil
}
