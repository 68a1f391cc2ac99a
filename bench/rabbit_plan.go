package main

import (
	"fmt"
	"time"

	"github.com/holdfast-go/holdfast"
	"github.com/holdfast-go/holdfast/rabbitmq"
)

// rabbitGroups are the workloads on RabbitMQ.
func rabbitGroups() []*group {
	all := append(rabbitConsumeGroups(), rabbitFailureGroups()...)
	all = append(all, rabbitPublishGroups()...)
	all = append(all, rabbitWindowGroups()...)
	for _, g := range all {
		g.broker, g.body = onRabbit, plain(kib)
		g.name = "rabbitmq: " + g.name
	}
	return all
}

// onePlus are the options of a window of 256 with one worker.
func onePlus(more ...holdfast.Option) []holdfast.Option {
	return append([]holdfast.Option{holdfast.Concurrency(1), holdfast.Prefetch(window - 1)}, more...)
}

func rabbitConsumeGroups() []*group {
	parity := []goal{{metricRatio, atLeast, 1}, {metricCPURatio, atMost, 1}}
	return []*group{
		{
			name: "consume and ack, quorum, 1 KiB, prefetch 256", n: 80_000, queue: rabbitmq.Quorum, metric: metricRatio, stored: true, trial: rabbitConsumeTrial,
			contenders: []contender{
				{name: "raw amqp091-go", run: rawRabbit(rawMode{})},
				{name: "holdfast", run: holdRabbit(onePlus()...), goals: parity},
				{name: "holdfast's transport without the engine", run: holdRabbitTransport(window - 1)},
			},
		},
		{
			name: "the same, messages with an ID, a type and a time", n: 80_000, queue: rabbitmq.Quorum, headers: true, metric: metricRatio, stored: true, trial: rabbitConsumeTrial,
			contenders: []contender{
				{name: "raw amqp091-go", run: rawRabbit(rawMode{})},
				{name: "holdfast", run: holdRabbit(onePlus()...), goals: parity},
			},
		},
		{
			name: "handler waits 1 ms, 64 wide, quorum", n: 60_000, queue: rabbitmq.Quorum, pause: time.Millisecond, metric: metricRatio, stored: true, trial: rabbitConsumeTrial,
			contenders: []contender{
				{name: "raw amqp091-go, a goroutine each and a semaphore", run: rawRabbit(rawMode{wide: 64})},
				{name: "holdfast", run: holdRabbit(holdfast.Concurrency(64), holdfast.Prefetch(window-64)), goals: []goal{{metricRatio, atLeast, 1}}},
			},
		},
	}
}

func rabbitFailureGroups() []*group {
	soon := holdfast.Retry{Attempts: 5, Backoff: holdfast.Constant(10 * time.Millisecond)}
	late := holdfast.Retry{Attempts: 5, Backoff: holdfast.Constant(5 * time.Minute)}
	return []*group{
		{
			name: "one in ten fails twice, 10 ms backoff, quorum", n: 60_000, queue: rabbitmq.Quorum, backoff: 10 * time.Millisecond,
			metric: metricRatio, stored: true, trial: rabbitConsumeTrial,
			contenders: []contender{
				{name: "holdfast, nothing fails", run: holdRabbit(onePlus(soon)...)},
				{name: "holdfast", fails: 2, run: holdRabbit(onePlus(soon)...), goals: []goal{{metricRatio, atLeast, 0.5}}},
				{name: "raw amqp091-go, held and given back", fails: 2, run: rawRabbit(rawMode{})},
			},
		},
		{
			name: "the same failures, messages with an ID, a type and a time", n: 60_000, queue: rabbitmq.Quorum, backoff: 10 * time.Millisecond,
			headers: true, metric: metricRatio, stored: true, trial: rabbitConsumeTrial,
			contenders: []contender{
				{name: "holdfast, nothing fails", run: holdRabbit(onePlus(soon)...)},
				{name: "holdfast", fails: 2, run: holdRabbit(onePlus(soon)...), goals: []goal{{metricRatio, atLeast, 0.5}}},
				{name: "raw amqp091-go, held and given back", fails: 2, run: rawRabbit(rawMode{})},
			},
		},
		{
			name: "one poison message, 5 min backoff, quorum", n: 60_000, queue: rabbitmq.Quorum, backoff: 5 * time.Minute,
			metric: metricRatio, stored: true, trial: rabbitConsumeTrial,
			contenders: []contender{
				{name: "holdfast, no poison", run: holdRabbit(onePlus(late)...)},
				{name: "holdfast", parked: 1, run: holdRabbit(onePlus(late)...), goals: []goal{{metricRatio, atLeast, 0.95}}},
			},
		},
	}
}

func rabbitPublishGroups() []*group {
	var all []*group
	for _, kind := range []rabbitmq.QueueType{rabbitmq.Quorum, rabbitmq.Classic} {
		for _, w := range []struct {
			name string
			n    int
			wide int
		}{{"one by one", 8_000, 1}, {"256 goroutines", 60_000, 256}} {
			all = append(all, &group{
				name: fmt.Sprintf("publish confirmed, %s, %s", w.name, kind), n: w.n, queue: kind, metric: metricRatio, trial: rabbitPublishTrial,
				contenders: []contender{
					{name: "raw amqp091-go", run: rawRabbitPublish(w.wide, false)},
					{name: "raw amqp091-go, with an ID, a time, a type and a header", run: rawRabbitPublish(w.wide, true)},
					{name: "holdfast", run: holdRabbitPublish(w.wide)},
				},
			})
		}
	}
	return all
}
