package server

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// instrumented are the operations that are counted, as upstream counts them.
var instrumented = []operation{opUpdate, opByHash, opByVersion, opCurrent, opGetKey, opRotateKey, opDelete, opChangefeed}

// metrics are upstream's four, by name and label. No label holds anything that
// a client can choose: their values have no bound.
type metrics struct {
	requests *prometheus.CounterVec
	duration *prometheus.SummaryVec
	received *prometheus.SummaryVec
	sent     *prometheus.SummaryVec
}

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	summary := func(name, help string) *prometheus.SummaryVec {
		return prometheus.NewSummaryVec(prometheus.SummaryOpts{
			Namespace: "notary_server", Subsystem: "http", Name: name, Help: help,
			Objectives: map[float64]float64{0.5: 0.05, 0.9: 0.01, 0.99: 0.001},
		}, []string{"operation"})
	}
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: "notary_server", Subsystem: "http", Name: "requests_total",
			Help: "Requests answered, by operation, method and status code.",
		}, []string{"code", "method", "operation"}),
		duration: summary("request_duration_microseconds", "Time from the head of a request to the end of its answer."),
		received: summary("request_size_bytes", "Approximate size of requests."),
		sent:     summary("response_size_bytes", "Size of the bodies of answers."),
	}
	for _, c := range []prometheus.Collector{m.requests, m.duration, m.received, m.sent} {
		if err := reg.Register(c); err != nil {
			return nil, fmt.Errorf("registering metrics: %w", err)
		}
	}
	// Rates can be computed from the first request on only if there was a zero.
	for _, op := range instrumented {
		for _, v := range []*prometheus.SummaryVec{m.duration, m.received, m.sent} {
			v.WithLabelValues(string(op))
		}
	}
	return m, nil
}

// observe counts one request, if its operation is an instrumented one: then its
// method is one of three.
func (m *metrics) observe(q *request, rec *recorder, took time.Duration) {
	if actions[q.op] == nil {
		return
	}
	op := string(q.op)
	m.requests.WithLabelValues(strconv.Itoa(rec.code()), strings.ToLower(q.Method), op).Inc()
	m.duration.WithLabelValues(op).Observe(float64(took) / float64(time.Microsecond))
	m.received.WithLabelValues(op).Observe(float64(approximateSize(q)))
	m.sent.WithLabelValues(op).Observe(float64(rec.bytes))
}

// approximateSize adds up what is known of the size of a request without
// having counted what came over the wire.
func approximateSize(q *request) int64 {
	size := len(q.Method) + len(q.URL.Path) + len(q.Proto) + len(q.Host)
	for name, values := range q.Header {
		size += len(name)
		for _, v := range values {
			size += len(v)
		}
	}
	return int64(size) + max(q.ContentLength, 0)
}
