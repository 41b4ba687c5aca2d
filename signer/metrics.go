package signer

import (
	"errors"
	"fmt"

	"github.com/prometheus/client_golang/prometheus"

	"countersign/signer/seal"
)

// metrics has labels with fixed value sets only, never a GUN or a key ID.
type metrics struct {
	created *prometheus.CounterVec
	opens   *prometheus.CounterVec
	hits    prometheus.Counter
}

func newMetrics(reg prometheus.Registerer, cached func() int) (*metrics, error) {
	const namespace, subsystem = "countersign", "signer"
	m := &metrics{
		created: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: namespace, Subsystem: subsystem, Name: "keys_created_total",
			Help: "Keys made, by key type.",
		}, []string{"algorithm"}),
		opens: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: namespace, Subsystem: subsystem, Name: "key_opens_total",
			Help: "Sealed keys opened, by outcome. All but ok must stay zero.",
		}, []string{"outcome"}),
		hits: prometheus.NewCounter(prometheus.CounterOpts{
			Namespace: namespace, Subsystem: subsystem, Name: "key_cache_hits_total",
			Help: "Uses of a key that was open already.",
		}),
	}
	if reg == nil {
		return m, nil
	}
	size := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Namespace: namespace, Subsystem: subsystem, Name: "keys_open",
		Help: "Opened keys in memory.",
	}, func() float64 { return float64(cached()) })
	for _, c := range [...]prometheus.Collector{m.created, m.opens, m.hits, size} {
		if err := reg.Register(c); err != nil {
			return nil, fmt.Errorf("registering metrics: %w", err)
		}
	}
	return m, nil
}

// outcome names the result of opening a key.
func outcome(err error) string {
	switch {
	case err == nil:
		return "ok"
	case errors.Is(err, seal.ErrNoPassphrase):
		return "no_passphrase"
	case errors.Is(err, seal.ErrWrongPassphrase):
		return "wrong_passphrase"
	case errors.Is(err, seal.ErrCorrupt):
		return "corrupt"
	}
	return "other"
}
