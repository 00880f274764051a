// What tidegate's synth is measured against: the same classes and the same model, the same defaults written, as plain JavaScript
// that checks nothing. The benchmark compares the outputs as JSON.

export const git = (url, more = {}) => ({ name: "code", url, ...more });
export const step = (name, ...run) => ({ name, run });
export const files = (from, to = from) => ({ from, to });
export const test = (name, ...run) => ({ name, run });
export const atLeast = (requests, api = null) => ({ api, requests });
export const stage = (environment, values = {}) => ({ environment, ...values });
export const beta = (values = {}) => stage("beta", values);
export const gamma = (values = {}) => stage("gamma", { oneBox: true, ...values });
export const production = (values = {}) => stage("production", { oneBox: true, ...values });

const source = ({ name, url, branch = "main", secret = null, since = null, poll = "1m" }) =>
  ({ name, url, branch, secret, since, poll });

const build = ({ fetch = [], lockFiles = [], steps = [], package: into, environment = {}, limits = {} }) => ({
  fetch,
  lock_files: lockFiles,
  steps,
  package: into,
  environment,
  limits: {
    time: limits.time ?? "30m",
    cpu_seconds: limits.cpuSeconds ?? 3600,
    memory_mib: limits.memoryMib ?? 4096,
    processes: limits.processes ?? 512,
    output_mib: limits.outputMib ?? 64,
    file_mib: limits.fileMib ?? 2048,
  },
});

const health = (of) => ({
  path: of.path,
  interval: of.interval ?? "5s",
  timeout: of.timeout ?? "2s",
  healthy_after: of.healthyAfter ?? 2,
  unhealthy_after: of.unhealthyAfter ?? 3,
  start_timeout: of.startTimeout ?? "1m",
});

const bake = (of) => ({
  one_box: of.oneBox,
  az: of.az,
  first_wave: of.firstWave,
  second_wave: of.secondWave,
  last_wave: of.lastWave,
  data: of.data,
});

export class Pipeline {
  boxesPerAz = 3;
  rollbackAll = false;

  sources() {
    return [git(this.repository)];
  }
  stages() {
    return [beta(), gamma(), production()];
  }
  bake() {
    return { data: this.dataRequirements() };
  }
  dataRequirements() {
    return [];
  }
  tests() {
    return [];
  }
  waves() {
    return [];
  }
  environment() {
    return {};
  }
  secrets() {
    return {};
  }
  calls() {
    return [];
  }

  model() {
    const common = { boxes: this.boxesPerAz, tests: this.tests(), bake: this.bake(), waves: this.waves() };
    return {
      schema: "tidegate.pipeline/1",
      name: this.name ?? `${this.service}-${this.kind}`,
      service: this.service,
      sources: this.sources().map(source),
      build: build(this.build()),
      run: {
        engine: this.engine(),
        environment: this.environment(),
        secrets: this.secrets(),
        calls: this.calls(),
      },
      stages: this.stages().map((stage) => ({
        environment: stage.environment,
        regions: stage.regions ?? [],
        boxes_per_az: stage.boxesPerAz ?? common.boxes,
        one_box: stage.oneBox ?? false,
        waves: stage.environment === "production" ? (stage.waves ?? common.waves) : [],
        tests: (stage.tests ?? common.tests).map(({ name, run, timeLimit = "10m" }) =>
          ({ name, run, time_limit: timeLimit })),
        bake: bake(stage.bake ?? common.bake),
        others: stage.others ?? null,
        own: stage.own ?? null,
      })),
      rollback: this.rollbackAll ? "production" : undefined,
    };
  }
}

export class ApplicationPipeline extends Pipeline {
  kind = "app";
  health = { path: "/health" };
  limits = {};
  drainTimeout = "30s";
  stopTimeout = "10s";

  engine() {
    return {
      process: {
        command: this.command,
        health: health(this.health),
        limits: { memory_mib: this.limits.memoryMib ?? 0, open_files: this.limits.openFiles ?? 0 },
        drain_timeout: this.drainTimeout,
        stop_timeout: this.stopTimeout,
      },
    };
  }
}

export class Organisation {
  constructor(values) {
    this.values = values;
  }
  model() {
    const { name, users, teams, services, regions } = this.values;
    return {
      schema: "tidegate.organisation/1",
      name,
      users: users.map(({ name, emails = [], roles = [] }) => ({ name, emails, roles })),
      teams: teams.map(({ name, members, pages = [], aggregate = null }) =>
        ({ name, members, late_approval: "forbid", windows: "always", pages, aggregate })),
      services: services.map(({ name, team, alarms = [], canaries = [] }) => ({ name, team, alarms, canaries })),
      regions,
    };
  }
}

/** Prints what modules export: the organisation, then the pipelines by their names. */
export function print(modules) {
  const exported = modules.flatMap((module) => Object.values(module));
  const of = (kind) => exported.filter((value) => value instanceof kind).map((value) => value.model());
  const pipelines = of(Pipeline).sort((a, b) => (a.name < b.name ? -1 : 1));
  const lines = [...of(Organisation), ...pipelines].map((model) => JSON.stringify(model));
  process.stdout.write(lines.join("\n") + "\n");
}
