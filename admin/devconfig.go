package admin

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"

	"countersign/internal/atomicfile"
)

// signerHost is where the signer listens: on this machine only.
const signerHost = "127.0.0.1"

type object = map[string]any

// writeConfigs writes the configurations of both programs, or, where they
// exist, brings their addresses up to date and leaves the rest as it is.
func (d *dev) writeConfigs() error {
	server, err := readConfig(d.file("server.json"), object{
		"server": object{"tls_cert_file": "certs/server.crt", "tls_key_file": "certs/server.key"},
		"trust_service": object{
			"type": "remote", "hostname": signerHost, "key_algorithm": "ecdsa", "tls_ca_file": "certs/ca.crt",
			"tls_client_cert": "certs/client.crt", "tls_client_key": "certs/client.key",
		},
		"storage": object{"backend": "sqlite3", "db_url": "server.db"},
		"logging": object{"level": "info", "format": "text"},
	})
	if err != nil {
		return err
	}
	signer, err := readConfig(d.file("signer.json"), object{
		"server":  object{"tls_cert_file": "certs/signer.crt", "tls_key_file": "certs/signer.key", "client_ca_file": "certs/ca.crt"},
		"storage": object{"backend": "sqlite3", "db_url": "signer.db", "default_alias": devAlias, "passphrase_files": object{devAlias: "passphrase"}},
		"logging": object{"level": "info", "format": "text"},
	})
	if err != nil {
		return err
	}
	old, _ := section(signer, "server")["grpc_addr"].(string)
	if d.info.SignerAddr, err = freePort(old); err != nil {
		return fmt.Errorf("looking for a free port for the signer: %w", err)
	}
	_, port, err := net.SplitHostPort(d.info.SignerAddr)
	if err != nil {
		return err
	}
	section(signer, "server")["grpc_addr"] = d.info.SignerAddr
	section(server, "server")["http_addr"] = d.addr
	section(server, "trust_service")["port"] = port
	// A crash in between leaves a server with an older port; the next run
	// writes it again.
	if err := writeConfig(d.file("signer.json"), signer); err != nil {
		return err
	}
	return writeConfig(d.file("server.json"), server)
}

// readConfig returns what the file holds, or the default if there is none.
func readConfig(path string, def object) (object, error) {
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return def, nil
	}
	if err != nil {
		return nil, err
	}
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	var cfg object
	if err := dec.Decode(&cfg); err != nil {
		return nil, fmt.Errorf("%s cannot be read (%w); mend it, or remove it to have it written anew", path, err)
	}
	if cfg == nil {
		return nil, fmt.Errorf("%s holds no JSON object; mend it, or remove it to have it written anew", path)
	}
	return cfg, nil
}

// section returns the object in cfg under name, which it makes if need be.
func section(cfg object, name string) object {
	s, ok := cfg[name].(object)
	if !ok {
		s = object{}
		cfg[name] = s
	}
	return s
}

// writeConfig leaves a file alone that says the same already.
func writeConfig(path string, cfg object) error {
	next, err := json.MarshalIndent(cfg, "", "  ")
	if err != nil {
		return err
	}
	if old, err := readConfig(path, nil); err == nil && old != nil {
		same, err := json.MarshalIndent(old, "", "  ")
		if err == nil && bytes.Equal(same, next) {
			return nil
		}
	}
	return atomicfile.Write(path, append(next, '\n'), 0o600)
}

// freePort returns preferred if one can listen there, or else an address with
// a free port.
func freePort(preferred string) (string, error) {
	for _, addr := range []string{preferred, net.JoinHostPort(signerHost, "0")} {
		if addr == "" {
			continue
		}
		lis, err := net.Listen("tcp", addr)
		if err != nil {
			if addr == preferred {
				continue
			}
			return "", err
		}
		return lis.Addr().String(), lis.Close()
	}
	return "", errors.New("there is none")
}
