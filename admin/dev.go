// Package admin is what the operator's commands do, without flags and printing.
package admin

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"countersign/certs"
	"countersign/internal/atomicfile"
)

const (
	devStart = 60 * time.Second // for both programs to become healthy
	devStop  = 25 * time.Second // for one program to end; it drains for 20 s
	devAlias = "dev"
)

// DevConfig says where a development pair lives.
type DevConfig struct {
	// Dir is the folder of all its state: certificates, passphrase, databases,
	// configurations, logs. It is made if it is missing.
	Dir string
	// Addr is the HOST:PORT of the server. Port 0 takes a free one.
	Addr string
	// Server and Signer are the paths of the programs; "" looks for them beside
	// this program and then in PATH.
	Server, Signer string
}

// DevInfo is what a user of a development pair needs to know.
type DevInfo struct {
	URL        string // of the server
	Host       string // its HOST:PORT
	Dir        string // absolute, as all paths here
	CA         string
	ServerLog  string
	SignerLog  string
	SignerAddr string
	// Open: the server can be reached from other machines, and whoever does may
	// publish and delete.
	Open bool
	// Elsewhere are the URLs under which other machines may reach a server that
	// listens on all addresses; its certificate is for them too.
	Elsewhere []string
}

// RunDev makes what the pair lacks, starts both programs, waits until both are
// healthy, calls ready, and ends them when ctx ends. It returns an error if the
// pair cannot be made or started, or if one of the programs ends by itself;
// then the other is ended too. Only one RunDev at a time may use a folder.
//
// The programs end with this process, on Linux even when it is killed.
func RunDev(ctx context.Context, cfg DevConfig, ready func(DevInfo)) (err error) {
	d, err := prepareDev(cfg)
	if err != nil {
		return err
	}
	defer d.unlock()
	if err := d.resolvePrograms(cfg); err != nil || ctx.Err() != nil {
		return err
	}
	// The server goes first, so that what it still has under way can be signed.
	defer func() { err = errors.Join(err, d.server.stop(), d.signer.stop()) }()
	d.signer = &child{name: "trust-signer", path: d.signerPath, config: d.file("signer.json"), log: d.info.SignerLog}
	if err := d.signer.start(); err != nil {
		return err
	}
	if err := d.await(ctx, "the signer to listen", d.signerListens); err != nil || ctx.Err() != nil {
		return err
	}
	d.server = &child{name: "trust-server", path: d.serverPath, config: d.file("server.json"), log: d.info.ServerLog}
	if err := d.server.start(); err != nil {
		return err
	}
	if err := d.await(ctx, "both programs to be healthy", d.healthy); err != nil || ctx.Err() != nil {
		return err
	}
	ready(d.info)
	return d.watch(ctx)
}

// dev is a development pair that is being run.
type dev struct {
	info                   DevInfo
	addr                   string // where the server listens
	unlock                 func()
	serverPath, signerPath string
	server, signer         *child // nil until started
}

func (d *dev) file(name string) string { return filepath.Join(d.info.Dir, name) }

// prepareDev takes the folder and makes what is missing in it. Every file is
// whole or not there, and made before what depends on it, so that after a crash
// the next run completes the rest.
func prepareDev(cfg DevConfig) (_ *dev, err error) {
	dir, err := filepath.Abs(cfg.Dir)
	if err != nil {
		return nil, err
	}
	d := &dev{info: DevInfo{Dir: dir, CA: filepath.Join(dir, "certs", "ca.crt")}}
	d.info.ServerLog, d.info.SignerLog = d.file("server.log"), d.file("signer.log")
	if _, _, err := net.SplitHostPort(cfg.Addr); err != nil {
		return nil, fmt.Errorf("%w; write the address as HOST:PORT", err)
	}
	if err := ownDir(dir); err != nil {
		return nil, err
	}
	if d.unlock, err = lockFile(d.file("lock")); err != nil {
		return nil, fmt.Errorf("%s is in use by another trust-admin dev: %w", dir, err)
	}
	defer func() {
		if err != nil {
			d.unlock()
		}
	}()
	hosts, err := d.chooseAddr(cfg.Addr)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(d.file("certs"), 0o700); err != nil {
		return nil, err
	}
	if err := certs.EnsureDev(certs.DevConfig{Dir: d.file("certs"), Hosts: hosts}); err != nil {
		return nil, err
	}
	if err := d.ensurePassphrase(); err != nil {
		return nil, err
	}
	return d, d.writeConfigs()
}

// chooseAddr looks whether one can listen on the address, settles its port,
// and returns the names that the server's certificate needs besides localhost.
func (d *dev) chooseAddr(addr string) (hosts []string, err error) {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	lis, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("the server cannot listen on %s: %w; end what does, or choose another address", addr, unwrapOp(err))
	}
	at := lis.Addr().(*net.TCPAddr)
	if err := lis.Close(); err != nil {
		return nil, err
	}
	port := fmt.Sprint(at.Port)
	d.addr = net.JoinHostPort(host, port)
	d.info.Open = !at.IP.IsLoopback()
	shown := host
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		shown = "localhost"
		if hosts, err = ownHosts(ip.To4() != nil); err != nil {
			return nil, err
		}
		for _, h := range hosts {
			d.info.Elsewhere = append(d.info.Elsewhere, "https://"+net.JoinHostPort(h, port))
		}
	} else {
		hosts = []string{host}
	}
	d.info.Host = net.JoinHostPort(shown, port)
	d.info.URL = "https://" + d.info.Host
	return hosts, nil
}

// ownHosts are the names by which other machines may know this one: its host
// name and its addresses.
func ownHosts(v4Only bool) (hosts []string, err error) {
	if name, err := os.Hostname(); err == nil && name != "localhost" {
		hosts = append(hosts, name)
	}
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return nil, fmt.Errorf("listing the addresses of this machine: %w", err)
	}
	for _, a := range addrs {
		n, ok := a.(*net.IPNet)
		// A link-local address is of use only together with an interface's name.
		if !ok || n.IP.IsLoopback() || n.IP.IsLinkLocalUnicast() || v4Only && n.IP.To4() == nil {
			continue
		}
		hosts = append(hosts, n.IP.String())
	}
	return hosts, nil
}

// unwrapOp strips "listen tcp ADDR: bind:", which the message says in words.
func unwrapOp(err error) error {
	var op *net.OpError
	if errors.As(err, &op) {
		err = op.Err
	}
	var sys *os.SyscallError
	if errors.As(err, &sys) {
		err = sys.Err
	}
	return err
}

// The marker tells that a folder is ours. No other name does: "certs" or "lock"
// are in many a folder of somebody else's.
const (
	marker     = "countersign-dev"
	markerText = "trust-admin dev keeps its state in this folder.\n"
)

// ownDir makes the folder, for its owner alone, or takes one that is empty, and
// marks it before anything else is put there. It does not touch one that holds
// other things.
func ownDir(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		err = os.MkdirAll(dir, 0o700)
	}
	if err != nil {
		return err
	}
	path := filepath.Join(dir, marker)
	if len(entries) > 0 {
		if marked(path) {
			return nil
		}
		return fmt.Errorf("%s holds other things; choose a folder that is empty or does not exist", dir)
	}
	// In place: a temporary file that a crash leaves would make the folder look
	// like somebody else's, and half a marker does not.
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteString(markerText)
	return errors.Join(err, f.Close())
}

// marked looks for our marker, or the beginning of it.
func marked(path string) bool {
	info, err := os.Lstat(path)
	if err != nil || !info.Mode().IsRegular() || info.Size() > int64(len(markerText)) {
		return false
	}
	raw, err := os.ReadFile(path)
	return err == nil && strings.HasPrefix(markerText, string(raw))
}

// ensurePassphrase makes the passphrase file. It is older than the keys: where
// there are keys without it, a new one would be of no use.
func (d *dev) ensurePassphrase() error {
	path := d.file("passphrase")
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if _, err := os.Stat(d.file("signer.db")); err == nil {
		return fmt.Errorf("%s is gone, and without it the keys in signer.db cannot be opened; restore it, or remove the folder %s to begin anew", path, d.info.Dir)
	}
	secret := make([]byte, 32)
	if _, err := rand.Read(secret); err != nil {
		return err
	}
	return atomicfile.Write(path, append(hex.AppendEncode(nil, secret), '\n'), 0o600)
}

func (d *dev) resolvePrograms(cfg DevConfig) (err error) {
	if d.serverPath, err = findProgram(cfg.Server, "trust-server"); err != nil {
		return err
	}
	d.signerPath, err = findProgram(cfg.Signer, "trust-signer")
	return err
}

func findProgram(given, name string) (string, error) {
	if given != "" {
		return given, nil
	}
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	if self, err = filepath.EvalSymlinks(self); err != nil {
		return "", err
	}
	beside := filepath.Join(filepath.Dir(self), name)
	if path, err := exec.LookPath(beside); err == nil {
		return path, nil
	}
	path, err := exec.LookPath(name)
	if err != nil {
		return "", fmt.Errorf("%s is neither in %s nor in PATH", name, filepath.Dir(self))
	}
	return path, nil
}

// await polls until ok returns nil, one of the programs ends, or ctx does, which
// is no error.
func (d *dev) await(ctx context.Context, what string, ok func(context.Context) error) error {
	deadline := time.NewTimer(devStart)
	defer deadline.Stop()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		err := ok(ctx)
		if err == nil || ctx.Err() != nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return nil
		case <-d.signer.ended():
			return endedBy(ctx, d.signer)
		case <-d.server.ended():
			return endedBy(ctx, d.server)
		case <-deadline.C:
			return fmt.Errorf("waited %v for %s in vain: %w; the logs are %s and %s", devStart, what, err, d.info.SignerLog, d.info.ServerLog)
		case <-tick.C:
		}
	}
}

func (d *dev) signerListens(ctx context.Context) error {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", d.info.SignerAddr)
	if err != nil {
		return err
	}
	return conn.Close()
}

// healthy asks the server as a client of it would, over TLS with our CA; the
// server answers 200 only if it has asked the signer too.
func (d *dev) healthy(ctx context.Context) error {
	store, err := certs.Load(certs.Config{Files: certs.Files{CA: d.info.CA}})
	if err != nil {
		return err
	}
	host, _, err := net.SplitHostPort(d.info.Host)
	if err != nil {
		return err
	}
	return askHealth(ctx, d.info.URL, store.Client(host))
}

func askHealth(ctx context.Context, url string, cfg *tls.Config) error {
	tr := &http.Transport{TLSClientConfig: cfg}
	defer tr.CloseIdleConnections()
	client := &http.Client{Transport: tr, Timeout: 5 * time.Second}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"/_notary_server/health", nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("the server's health is answered %s", resp.Status)
	}
	return nil
}

// watch returns when ctx ends, with nil, or when a program does.
func (d *dev) watch(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case <-d.server.ended():
		return endedBy(ctx, d.server)
	case <-d.signer.ended():
		return endedBy(ctx, d.signer)
	}
}

// endedBy is nil if the program was told to end at the same time as we were, as
// a service manager does.
func endedBy(ctx context.Context, c *child) error {
	if ctx.Err() != nil {
		return nil
	}
	return c.obituary()
}
