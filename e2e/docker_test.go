package e2e_test

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// An engine is a docker daemon and a registry on loopback, with everything in
// temporary directories and no network of its own.
type engine struct {
	dir      string
	socket   string
	registry string // host:port
}

// newEngine starts a daemon and a registry that is open to all, and ends them
// with the test.
func newEngine(t testing.TB) *engine { t.Helper(); return newEngineAt(t, port(t)) }

// newEngineAt is newEngine with a port for the registry, and with more in the
// environment of the daemon.
func newEngineAt(t testing.TB, registryPort int, env ...string) *engine {
	t.Helper()
	// Not t.TempDir: a socket's path must stay under 108 bytes.
	dir, err := os.MkdirTemp("", "countersign-docker-")
	if err != nil {
		t.Fatal(err)
	}
	e := &engine{dir: dir, socket: filepath.Join(dir, "d.sock")}
	daemon := exec.Command("dockerd", "--data-root="+filepath.Join(dir, "data"), "--exec-root="+filepath.Join(dir, "exec"),
		"--pidfile="+filepath.Join(dir, "pid"), "--config-file="+filepath.Join(dir, "none.json"), "--host=unix://"+e.socket,
		"--bridge=none", "--iptables=false", "--ip6tables=false", "--storage-driver=vfs", "--log-level=error")
	daemon.Env = append(append(os.Environ(), "HOME="+dir), env...)
	if err := os.WriteFile(filepath.Join(dir, "none.json"), []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	d := e.launch(t, dir, "dockerd", daemon)
	e.registry = e.launchRegistry(t, registryPort, "registry", "")
	if err := waitFor(60*time.Second, "the docker daemon", func() error {
		if !d.running() {
			return fmt.Errorf("it has ended:\n%s", d.tail(20))
		}
		out, err := exec.Command("docker", "--host=unix://"+e.socket, "version").CombinedOutput()
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return e
}

// launch starts a process that ends, with its files, when the test does.
func (e *engine) launch(t testing.TB, dir, name string, cmd *exec.Cmd) *process {
	t.Helper()
	p, err := start(name, filepath.Join(dir, name+".log"), cmd)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("end of the log of %s:\n%s", name, p.tail(15))
		}
		// The daemon ends its containerd on SIGTERM, and needs its files until then.
		err := p.end(syscall.SIGTERM, 30*time.Second)
		if name == "dockerd" {
			err = errors.Join(err, os.RemoveAll(dir))
		}
		if err != nil {
			t.Error(err)
		}
	})
	return p
}

// launchRegistry starts a registry on port n with more lines in its
// configuration, and returns its address. What it stores is under its name.
func (e *engine) launchRegistry(t testing.TB, n int, name, more string) string {
	t.Helper()
	config := filepath.Join(e.dir, name+".yml")
	text := fmt.Sprintf("version: 0.1\nlog:\n  level: error\n  accesslog:\n    disabled: true\nstorage:\n  filesystem:\n    rootdirectory: %s\nhttp:\n  addr: %s\n%s",
		filepath.Join(e.dir, name), loopback(n), more)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	p := e.launch(t, e.dir, "docker-"+name, exec.Command("docker-registry", "serve", config))
	if err := waitForPort(p, loopback(n), 30*time.Second); err != nil {
		t.Fatal(err)
	}
	return "localhost:" + strconv.Itoa(n)
}

// dockerClients are the docker commands of this machine that know content trust:
// it left the client with 29.
func dockerClients(t testing.TB) map[string]string {
	t.Helper()
	found := map[string]string{}
	for _, dir := range append(filepath.SplitList(os.Getenv("PATH")), "/usr/bin") {
		path := filepath.Join(dir, "docker")
		out, err := exec.Command(path, "--version").Output()
		if err != nil {
			continue
		}
		m := regexp.MustCompile(`version (\d+)\.([\d.]+)`).FindStringSubmatch(string(out))
		if m == nil {
			t.Fatalf("%s --version says %q", path, out)
		}
		if major, err := strconv.Atoi(m[1]); err == nil && major < 29 {
			found[m[1]+"."+m[2]] = path
		}
	}
	if len(found) == 0 {
		t.Fatal("no docker client before version 29 is installed (make deps)")
	}
	return found
}

// A docker is a docker client with a home of its own and content trust turned on.
type docker struct {
	*shell
	path string
}

func newDocker(t testing.TB, path string, e *engine, trustServer, ca string) *docker {
	t.Helper()
	sh := newShell(t, "DOCKER_HOST=unix://"+e.socket, "DOCKER_CONTENT_TRUST=1", "DOCKER_CONTENT_TRUST_SERVER="+trustServer,
		"DOCKER_CONTENT_TRUST_ROOT_PASSPHRASE=root passphrase", "DOCKER_CONTENT_TRUST_REPOSITORY_PASSPHRASE=repository passphrase")
	sh.env = append(sh.env, "DOCKER_CONFIG="+filepath.Join(sh.home, ".docker"))
	certs := filepath.Join(sh.home, ".docker", "tls", strings.TrimPrefix(trustServer, "https://"))
	raw, err := os.ReadFile(ca)
	if err == nil {
		err = errors.Join(os.MkdirAll(certs, 0o700), os.WriteFile(filepath.Join(certs, "ca.crt"), raw, 0o600))
	}
	if err != nil {
		t.Fatal(err)
	}
	return &docker{shell: sh, path: path}
}

// run runs docker, which must succeed and say all the words.
func (d *docker) run(args []string, words ...string) string {
	d.t.Helper()
	out, err := d.try("", append([]string{d.path}, args...)...)
	if err != nil {
		d.t.Fatalf("docker %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return d.hold(args, out, words)
}

// fails runs docker, which must fail and say all the words.
func (d *docker) fails(args []string, words ...string) {
	d.t.Helper()
	out, err := d.try("", append([]string{d.path}, args...)...)
	if err == nil {
		d.t.Fatalf("docker %s succeeded:\n%s", strings.Join(args, " "), out)
	}
	d.hold(args, out, words)
}

func (d *docker) hold(args []string, out string, words []string) string {
	d.t.Helper()
	for _, w := range words {
		if !strings.Contains(out, w) {
			d.t.Fatalf("docker %s does not say %q:\n%s", strings.Join(args, " "), w, out)
		}
	}
	return out
}

// image makes an image of one file, without any network, and returns its ID.
func (d *docker) image(ref, content string) string {
	d.t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	err := w.WriteHeader(&tar.Header{Name: "content", Mode: 0o644, Size: int64(len(content))})
	if err == nil {
		_, err = w.Write([]byte(content))
	}
	if err = errors.Join(err, w.Close()); err != nil {
		d.t.Fatal(err)
	}
	out, err := d.try(b.String(), d.path, "import", "-", ref)
	if err != nil {
		d.t.Fatalf("docker import: %v\n%s", err, out)
	}
	return strings.TrimSpace(out)
}

// imageID is the ID of a local image.
func (d *docker) imageID(ref string) string {
	d.t.Helper()
	return strings.TrimSpace(d.run([]string{"image", "inspect", "--format={{.Id}}", ref}))
}

// digest is what a registry has under a tag, whoever signed it.
func (e *engine) digest(t testing.TB, repo, tag string) string {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodHead, fmt.Sprintf("http://%s/v2/%s/manifests/%s", e.registry, repo, tag), nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Accept", "application/vnd.docker.distribution.manifest.v2+json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	d := resp.Header.Get("Docker-Content-Digest")
	if resp.StatusCode != http.StatusOK || d == "" {
		t.Fatalf("the registry on %s:%s: %s", repo, tag, resp.Status)
	}
	return d
}

// trust is what "docker trust inspect" says of a repository or tag.
type trust struct {
	SignedTags []struct {
		SignedTag string
		Digest    string
		Signers   []string
	}
	Signers []struct{ Name string }
}

// digests are the signed digests by tag, with the signers behind a blank.
func (tr trust) digests() map[string]string {
	m := map[string]string{}
	for _, s := range tr.SignedTags {
		slices.Sort(s.Signers)
		m[s.SignedTag] = "sha256:" + s.Digest + " " + strings.Join(s.Signers, ",")
	}
	return m
}

func (d *docker) inspect(ref string) trust {
	d.t.Helper()
	out := d.run([]string{"trust", "inspect", ref})
	var all []trust
	if err := json.Unmarshal([]byte(out), &all); err != nil || len(all) != 1 {
		d.t.Fatalf("docker trust inspect: %v\n%s", err, out)
	}
	return all[0]
}
