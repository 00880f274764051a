/**
 * tidegate's library for pipelines as code. Pipelines are classes: what a team shares is a parent class, a pipeline is a
 * subclass of a few lines. A single value is a property (`service = "web"`); what is put together is a method
 * (`stages() { return [...super.stages(), ...] }`). Nothing is read before the whole object is there, so a parent's
 * method sees its subclass's properties.
 *
 * Every default that you see here is the one that counts. The figures are those of the article "Automating safe,
 * hands-off deployments".
 */

// ---------------------------------------------------------------------------------------------------------------- time

/** A span of time, such as `"90s"`, `"1h30m"` or `minutes(5)`. */
export type Span =
  | `${number}ms`
  | `${number}s`
  | `${number}m`
  | `${number}h`
  | `${number}d`
  | `${number}m${number}s`
  | `${number}h${number}m`
  | `${number}d${number}h`;

/** A span of `n` milliseconds. */
export function milliseconds(n: number): Span {
  if (!(n >= 0 && n <= 1e15) || n % 1 !== 0) {
    throw new RangeError(`a span of time is a whole number of milliseconds from 0 up, not ${n}`);
  }
  return `${n}ms`;
}

/** A span of `n` seconds. */
export function seconds(n: number): Span {
  return milliseconds(n * 1_000);
}

/** A span of `n` minutes. */
export function minutes(n: number): Span {
  return milliseconds(n * 60_000);
}

/** A span of `n` hours. */
export function hours(n: number): Span {
  return milliseconds(n * 3_600_000);
}

/** A span of `n` days. */
export function days(n: number): Span {
  return milliseconds(n * 86_400_000);
}

// ------------------------------------------------------------------------------------------------------------- sources

/** A git repository and its mainline. */
export interface Source {
  /** Its name in the pipeline; also the folder that the build finds it in. */
  name: string;
  /** Any git URL. */
  url: string;
  /** The mainline; `main` unless given. */
  branch?: string;
  /** The name of a secret on the server that opens it. */
  secret?: string;
  /** Commits up to this one, named in full, count as reviewed. */
  since?: string;
  /** How often it is looked at when nobody notifies; a minute unless given. */
  poll?: Span;
  /** Where its changes are reviewed: what was approved there needs no other approval. */
  review?: Review;
}

/** Where changes are reviewed before they are merged: GitHub, or what answers its API, or GitLab. */
export type Review =
  | {
      github: {
        /** `owner/name`. */
        repository: string;
        /** Before `/repos`; `https://api.github.com` unless given. */
        api?: string;
        /** The name of a secret on the server: a token that may read the repository and its pull requests. */
        token?: string;
        /** The name of a secret on the server that its webhook signs with. */
        webhook?: string;
      };
    }
  | {
      gitlab: {
        /** Its path with all of its groups. */
        project: string;
        /** Before `/projects`; `https://gitlab.com/api/v4` unless given. */
        api?: string;
        /** The name of a secret on the server: a token with the scope `read_api`. */
        token?: string;
        /** The name of a secret on the server that its webhook signs with, or tells. */
        webhook?: string;
      };
    };

/** A git repository; its name is `code` unless `more` says otherwise. */
export function git(url: string, more: Partial<Omit<Source, "url">> = {}): Source {
  return { name: "code", url, ...more };
}

// --------------------------------------------------------------------------------------------------------------- build

/** One command of a build: a program and its arguments, no shell unless it is named. */
export interface Step {
  /** For people and logs. */
  name: string;
  /** Program and arguments. */
  run: string[];
}

/** A command of a build. */
export function step(name: string, ...run: string[]): Step {
  return { name, run };
}

/** A file or folder that goes into the package. */
export interface PackagePath {
  /** Relative to the sources. */
  from: string;
  /** Relative to the package's root. */
  to: string;
}

/** A file or folder that goes into the package; under the same name unless `to` is given. */
export function files(from: string, to: string = from): PackagePath {
  return { from, to };
}

/** Limits of a build. */
export interface BuildLimits {
  /** From start to end; 30 minutes. */
  time?: Span;
  /** CPU time of one command; 3,600. */
  cpuSeconds?: number;
  /** Memory of all processes together; 4,096. */
  memoryMib?: number;
  /** Processes and threads at once; 512. */
  processes?: number;
  /** Output of one build; 64. */
  outputMib?: number;
  /** The largest file that it may write; 2,048. */
  fileMib?: number;
}

/** How a package is made, in a sandbox. */
export interface Build {
  /** Commands with network, cached by the digest of `lockFiles`. */
  fetch?: Step[];
  /** Files that decide what `fetch` brings. */
  lockFiles?: string[];
  /** Commands without network: compile, lint, test. */
  steps?: Step[];
  /** What goes into the package. */
  package: PackagePath[];
  /** Environment of all commands. */
  environment?: Record<string, string>;
  /** Limits of the whole build. */
  limits?: BuildLimits;
}

// ----------------------------------------------------------------------------------------------------------------- run

/** When a box counts as healthy: a 2xx answer within `timeout`, `healthyAfter` times in a row. */
export interface HealthCheck {
  /** Path and query. */
  path: string;
  /** From the end of one check to the next; 5 seconds. */
  interval?: Span;
  /** Limit of one check; 2 seconds. */
  timeout?: Span;
  /** Passed checks in a row until a box is healthy; 2. */
  healthyAfter?: number;
  /** Failed checks in a row until a healthy box is unhealthy; 3. */
  unhealthyAfter?: number;
  /** How long a starting box may take to become healthy; 60 seconds. */
  startTimeout?: Span;
}

/** Limits of one box; what is not given has none. */
export interface BoxLimits {
  /** Address space. */
  memoryMib?: number;
  /** Open files. */
  openFiles?: number;
}

// -------------------------------------------------------------------------------------------------------------- stages

/** A test of a stage: a program of the package, run against the environment's endpoints. */
export interface Test {
  /** For people and logs. */
  name: string;
  /** Program (relative to the package) and arguments. */
  run: string[];
  /** Limit of one run; ten minutes. */
  timeLimit?: Span;
}

/** A test of a stage. */
export function test(name: string, ...run: string[]): Test {
  return { name, run };
}

/** So many requests that a bake has to see as well, in each Region. */
export interface DataRequirement {
  /** How many. */
  requests: number;
  /** To which API, such as `POST /orders`; all together without one. */
  api?: string;
}

/** "At least 100 requests to the create API". */
export function atLeast(requests: number, api?: string): DataRequirement {
  return api === undefined ? { requests } : { requests, api };
}

/**
 * How long a step is watched before the next one begins. What is not said is as the team's defaults and the service's profile
 * say; the figures here are those of a standard service.
 */
export interface Bake {
  /** After a one-box; an hour. */
  oneBox?: Span;
  /** After each Availability Zone but a wave's last, and after each of pre-production; 15 minutes. */
  az?: Span;
  /** After production's first wave; 12 hours. */
  firstWave?: Span;
  /** After the second wave; 4 hours. Each later one's is an hour shorter, down to `lastWave`. */
  secondWave?: Span;
  /** The shortest bake of a wave; 2 hours. */
  lastWave?: Span;
  /** Requests that every bake has to see as well. */
  data?: DataRequirement[];
}

/** A wave that is placed by hand. */
export interface Wave {
  /** A name that stays; `wave-1`, `wave-2`, ... without one. */
  name?: string;
  /** Its Regions. */
  regions: string[];
  /** Its steps after the one-box, each a list of `region/az`; without any, the first AZ of every Region, and so on. */
  steps?: string[][];
}

/** A wave that is placed by hand. */
export function wave(...regions: string[]): Wave {
  return { regions };
}

/** What may be said of a stage. What it does not say is the pipeline's: `boxesPerAz`, `tests()`, `bake()`, `waves()`. */
export interface StageValues {
  /** The Regions that it stands in; all of the organisation's list without any. */
  regions?: string[];
  /** Boxes of each AZ's main fleet. */
  boxesPerAz?: number;
  /** Whether each Region has a permanent one-box that is deployed to first. */
  oneBox?: boolean;
  /** Waves by hand, in production only; without any the server plans them. */
  waves?: Wave[];
  /** Tests that are run after each step's deployment. */
  tests?: Test[];
  /** Bake times. */
  bake?: Bake;
  /** The environment in which other teams' services are called; production unless given. */
  others?: string;
  /** The environment in which the team's own services are called; this one unless given. */
  own?: string;
}

/** An environment that releases pass. */
export interface Stage extends StageValues {
  /** `production` is planned in waves and obeys windows. */
  environment: string;
}

/** A stage of any name. */
export function stage(environment: string, values: StageValues = {}): Stage {
  return { environment, ...values };
}

/** The first test environment, for the team's own developers. */
export function alpha(values: StageValues = {}): Stage {
  return stage("alpha", values);
}

/** A test environment; without a one-box. */
export function beta(values: StageValues = {}): Stage {
  return stage("beta", values);
}

/** The test environment that is most like production: it begins with a one-box, too. */
export function gamma(values: StageValues = {}): Stage {
  return stage("gamma", { oneBox: true, ...values });
}

/** Production's endpoints before customers come: the team's own services are called in production. */
export function zeta(values: StageValues = {}): Stage {
  return stage("zeta", { own: "production", ...values });
}

/** Production: waves over the organisation's Regions, each beginning with a one-box. */
export function production(values: StageValues = {}): Stage {
  return stage("production", { oneBox: true, ...values });
}

/**
 * Batch sizes of a rolling deployment. What is not said is as the team's defaults and the service's profile say; the figures
 * here are those of a standard service.
 */
export interface Rolling {
  /** Percent of a target's boxes that may be out at once, 1 to 33; 33, which stands for a third. */
  maxUnavailablePercent?: number;
  /** Percent that must be healthy at every moment, 66 or more; 66. */
  minHealthyPercent?: number;
  /** Percent of healthy boxes that may be replaced at once while a release is taken back; 33. */
  rollbackPercent?: number;
  /** How long a new box must have been healthy until it counts; 10 seconds. */
  healthyFor?: Span;
  /** How long a deployment may go without another healthy box until it is taken back; 10 minutes. */
  progressDeadline?: Span;
}

// ----------------------------------------------------------------------------------------------------------- pipelines

// What has no value here stands in an interface: so a subclass may give it as a field or as an accessor.
export interface Pipeline {
  /** The git URL of the one repository that most pipelines have; those with more override {@link sources}. */
  repository?: string;
  /** Its name, unique in the organisation; the service and {@link kind} unless given, such as `web-app`. */
  name?: string;
  /**
   * Whether a rejected release leaves all of production at once; otherwise waves whose bake has ended keep it. As the team's
   * defaults say unless given.
   */
  rollbackAll?: boolean;
}

/** What every pipeline has. Extend one of its kinds: {@link ApplicationPipeline} and its siblings. */
export abstract class Pipeline {
  /** The service whose boxes it deploys to; one of the organisation's. */
  abstract service: string;
  /** Boxes of each AZ's main fleet, in stages that do not say otherwise. */
  boxesPerAz: number = 3;
  /** Whether it only says what it would do, and moves nothing: to be watched beside the tool that deploys today. */
  observeOnly: boolean = false;
  /** What its name ends with. */
  abstract kind: string;

  /** Where its changes come from. */
  sources(): Source[] {
    if (this.repository === undefined) {
      throw new TypeError("say where the code is: repository = \"https://...\", or a method sources()");
    }
    return [git(this.repository)];
  }

  /** How the package is made. */
  abstract build(): Build;

  /** Pre-production and production, in order. */
  stages(): Stage[] {
    return [beta(), gamma(), production()];
  }

  /** Bake times, in stages that do not say otherwise, as far as the team's defaults and the profile are not right. */
  bake(): Bake {
    const data = this.dataRequirements();
    return data.length === 0 ? {} : { data };
  }

  /** Requests that every bake has to see as well, such as `[atLeast(100, "POST /orders")]`. */
  dataRequirements(): DataRequirement[] {
    return [];
  }

  /** Tests of every stage that does not say otherwise. */
  tests(): Test[] {
    return [];
  }

  /**
   * Production's waves, if they are placed by hand. Without any the server plans them from the Regions' traffic: the least
   * first, then the most, then 3, then up to 12, then the rest. So a new Region reaches every pipeline by itself.
   */
  waves(): Wave[] {
    return [];
  }

  /** How many boxes at once, as far as the team's defaults and the profile are not right. */
  rolling(): Rolling {
    return {};
  }

  /** Environment variables of what runs. */
  environment(): Record<string, string> {
    return {};
  }

  /** Environment variables whose values are secrets on the server: variable to secret's name. */
  secrets(): Record<string, string> {
    return {};
  }

  /** Services that it calls; their addresses come as `TIDEGATE_ENDPOINT_<SERVICE>`. */
  calls(): string[] {
    return [];
  }
}

/** A server process: what customers, or other services, call. */
export abstract class ApplicationPipeline extends Pipeline {
  kind: string = "app";
  /** The program, relative to the package, and its arguments. It listens on the address in `TIDEGATE_ADDRESS`. */
  abstract command: string[];
  /** When a box counts as healthy. */
  health: HealthCheck = { path: "/health" };
  /** Limits of each box. */
  limits: BoxLimits = {};
  /** How long a box that leaves may finish the requests in flight. */
  drainTimeout: Span = seconds(30);
  /** How long a box has after SIGTERM before SIGKILL. */
  stopTimeout: Span = seconds(10);
}

/** What a team's own commands deploy: infrastructure, images, tools. Each command must be idempotent. */
export abstract class CommandPipeline extends Pipeline {
  /** Whether the commands take a split and move box by box; otherwise a target is replaced as a whole. */
  manyBoxes: boolean = false;
  /** Brings the target to the release; a program of the package and its arguments. */
  abstract deploy: string[];
  /** Prints what is so, as JSON. */
  abstract observe: string[];
  /** Puts the target back; the same as `deploy` when empty. */
  undo: string[] = [];
  /** Limit of one run of `deploy` or `undo`. */
  timeLimit: Span = minutes(30);
  /** One unit in each AZ. */
  boxesPerAz: number = 1;
}

/** Infrastructure: stacks of resources, moved by the team's own commands. */
export abstract class InfrastructurePipeline extends CommandPipeline {
  kind: string = "infrastructure";
}

/** The operating system of the service's machines: images and patches. */
export abstract class OperatingSystemPipeline extends CommandPipeline {
  kind: string = "os";
}

/** Tools for the people who operate the service. */
export abstract class OperatorToolsPipeline extends CommandPipeline {
  kind: string = "tools";
}

/** Configuration and feature flags: files that the service's boxes take up while they run. */
export abstract class ConfigurationPipeline extends Pipeline {
  kind: string = "config";
  /** The path that is called with POST at a box whose files have changed; a 2xx answer takes them. */
  reload: string = "/reload";
  /** Limit of one such call. */
  timeout: Span = seconds(5);
}

/**
 * This folder itself, as a source with a pipeline: a merged and approved change of it is built into a package, and the server
 * that deploys it takes it as a whole, or not at all when something in it is wrong; then the release is taken back like any
 * other. An administrator applies the folder for the first time. Pipelines that leave the folder stay: `tidegate retire`.
 */
export abstract class DefinitionsPipeline extends Pipeline {
  kind: string = "pipelines";
  /** The Region in which the server stands; one of the organisation's. */
  abstract region: string;
  /** The folder with the definitions, relative to the repository. */
  folder: string = "pipelines";
  /**
   * What it may define: pipelines of the services of the team that owns its service, or everything, the organisation with
   * its users and roles included. Whoever may approve its commits may define that much.
   */
  scope: "team" | "organisation" = "team";
  /** The server is one. */
  boxesPerAz: number = 1;

  /** The folder as it is; steps of a subclass may check or make it. */
  build(): Build {
    return { package: [files(this.folder)] };
  }

  /** Production in the server's Region, so its team's windows hold. */
  stages(): Stage[] {
    return [production({ regions: [this.region], oneBox: false })];
  }

  /** A quarter of an hour: the pipelines that it changes bake by themselves. */
  bake(): Bake {
    return { ...super.bake(), firstWave: minutes(15) };
  }

  /** What is wrong with definitions does not get right by waiting long. */
  rolling(): Rolling {
    return { ...super.rolling(), progressDeadline: minutes(1) };
  }
}

// -------------------------------------------------------------------------------------------------------- organisation

/** A person. */
export interface User {
  /** The name that approvals, holds and the log show. */
  name: string;
  /** Addresses under which this person commits. */
  emails?: string[];
  /** The names under which this person reviews changes on forges. */
  accounts?: { github?: string; gitlab?: string };
  /** Beyond what membership in a team gives. */
  roles?: ("administrator" | "principal-engineer")[];
}

/** A day of the week. */
export type Weekday = "monday" | "tuesday" | "wednesday" | "thursday" | "friday" | "saturday" | "sunday";

/** When deployments to production may start. */
export type Windows =
  | "always"
  | {
      weekly: {
        /** The zone whose clock counts, such as `Europe/Berlin`. */
        timeZone: string;
        /** When it is open, such as `{ days: ["monday"], hours: "09:00-16:00" }`. */
        open: { days: Weekday[]; hours: string }[];
        /** When it is closed nevertheless, such as `{ dates: "2026-12-24/2027-01-01", reason: "year-end freeze" }`. */
        closed?: { dates: string; reason: string }[];
      };
    };

/**
 * How careful the defaults of a service's pipelines are. Standard: the article's figures. Critical: twice the bake times, batches of
 * 5 %, boxes that are watched for 30 s before they count, and waves of at most 6 Regions.
 */
export type Profile = "standard" | "critical";

/** A team's defaults for services of one profile. What they do not say is the profile's. */
export interface Defaults {
  /** Bake times, of every stage. */
  bake?: Bake;
  /** Batch sizes. */
  rolling?: Rolling;
  /** What a rejection returns; the waves that still bake unless given. */
  rollback?: "unfinished-waves" | "production";
}

/** A team. */
export interface Team {
  /** Its name. */
  name: string;
  /** Who may review and steer. */
  members: string[];
  /** Who may say beside them in which state the alarms from outside are, and nothing else: programs. */
  reporters?: string[];
  /** Whether a commit may be approved after it was merged; forbidden unless given. */
  lateApproval?: "forbid" | "allow";
  /** When deployments to production may start; always unless given. */
  windows?: Windows;
  /** Where the on-call engineer is paged. */
  pages?: PageTarget[];
  /** The team's high-severity alarm, such as `ALARM("Web_High_Fault_Rate")`; any of the services' without one. */
  aggregate?: string;
  /** The Prometheus that its alarms' PromQL is asked of; the organisation's without one. */
  prometheus?: Prometheus;
  /** How critical its services are that do not say it themselves; standard unless given. */
  profile?: Profile;
  /** What its pipelines do not say themselves, in one place: for its standard services and for its critical ones. */
  defaults?: { [profile in Profile]?: Defaults };
}

/** A destination for pages. All but a webhook are told as well when what they were paged for is over. */
export type PageTarget =
  | { webhook: string }
  | { pagerduty: { routingKey: string; url?: string } }
  | { slack: { url: string } }
  | { alertmanager: { url: string } }
  | {
      email: {
        to: string;
        from: string;
        server: string;
        tls?: "starttls" | "tls" | "none";
        user?: string;
        secret?: string;
      };
    };

/** A Prometheus, or whatever answers its HTTP API. */
export interface Prometheus {
  /** Before `/api/v1/query`. */
  url: string;
  /** The name of a secret that is sent as the bearer token. */
  secret?: string;
}

/** What an alarm measures; a latency's unit is milliseconds, a rate's percent. */
export type Metric =
  | { "fault-rate": { api?: string } }
  | { "error-rate": { api?: string } }
  | { faults: { api?: string } }
  | { requests: { api?: string } }
  | { latency: { percentile: `p${number}`; api?: string } }
  | { cpu: { statistic?: "average" | "maximum" } }
  | { memory: { statistic?: "average" | "maximum" } }
  | { disk: { statistic?: "average" | "maximum" } }
  | "log-errors"
  | "unhealthy-boxes"
  | "canary-failures"
  | { custom: { name: string; statistic?: "average" | "maximum" } }
  | { promql: { query: string } };

/** An alarm on one metric of a service. */
export interface Alarm {
  /** Unique in its team. */
  name: string;
  /** All boxes of the service, or the one-boxes alone. */
  scope?: "service" | "one-box";
  /** What is measured. */
  metric: Metric;
  /** `>` unless given. */
  comparison?: ">" | ">=" | "<" | "<=";
  /** In the metric's unit. */
  threshold: number;
  /** The length of one period; a minute. */
  period?: Span;
  /** How many breaching periods of how many; `2 of 3`. */
  datapoints?: `${number} of ${number}`;
  /** What a period without data counts as. */
  missing?: "missing" | "not-breaching" | "breaching" | "ignore";
  /** Fewer requests than this are no data; 5. */
  minSamples?: number;
}

/** An alarm whose state comes from outside. */
export interface OutsideAlarm {
  /** Unique in its team. */
  name: string;
  /** It judges every release of the service, or one-boxes alone. */
  scope?: "service" | "one-box";
  /** Who says in which state it is; whoever calls the API unless given. */
  from?: "api" | "alertmanager";
  /** How long a word counts; 5 minutes. */
  ttl?: Span;
}

/** A continuous synthetic test of one API. */
export interface Canary {
  /** Unique within the service. */
  name: string;
  /** `GET` unless given. */
  method?: string;
  /** Path and query. */
  path: `/${string}`;
  /** Request body. */
  body?: string;
  /** The status that counts as success; 200. */
  expectStatus?: number;
  /** A text that the answer must contain. */
  expectBodyContains?: string;
  /** From one run to the next; 10 seconds. */
  every?: Span;
  /** Limit of one run; 5 seconds. */
  timeout?: Span;
}

/** A service. */
export interface Service {
  /** Its name. */
  name: string;
  /** The owner. */
  team: string;
  /** Its alarms; the standard set without any. */
  alarms?: Alarm[];
  /** Alarms beside these whose state comes from outside. */
  outside?: OutsideAlarm[];
  /** Synthetic tests that run all the time. */
  canaries?: Canary[];
  /** How critical it is; as its team says unless given. */
  profile?: Profile;
}

/** A Region of the central list. */
export interface Region {
  /** Its name. */
  name: string;
  /** Its AZs or cells, in the order in which they are deployed to. */
  azs: string[];
  /** Relative traffic; the planner puts the lowest first. */
  traffic: number;
}

/** What an organisation is made of. */
export interface OrganisationValues {
  /** For people. */
  name: string;
  /** Everybody who may be given a token. */
  users: User[];
  /** The teams. */
  teams: Team[];
  /** The services, each owned by one team. */
  services: Service[];
  /** All Regions: one that is added here comes into the last wave of every pipeline. */
  regions: Region[];
  /** The Prometheus that alarms' PromQL is asked of, unless a team has its own. */
  prometheus?: Prometheus;
}

/** People, teams, services and the central list of Regions: `export default new Organisation({ ... })`, once in a folder. */
export class Organisation {
  /** What it is made of. */
  readonly values: OrganisationValues;

  constructor(values: OrganisationValues) {
    this.values = values;
  }
}
