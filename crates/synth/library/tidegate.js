/** A span of `n` milliseconds. */
export function milliseconds(n) {
	if (!(n >= 0 && n <= 0x38d7ea4c68000) || n % 1 !== 0) {
		throw new RangeError(`a span of time is a whole number of milliseconds from 0 up, not ${n}`);
	}
	return `${n}ms`;
}
/** A span of `n` seconds. */
export function seconds(n) {
	return milliseconds(n * 1e3);
}
/** A span of `n` minutes. */
export function minutes(n) {
	return milliseconds(n * 6e4);
}
/** A span of `n` hours. */
export function hours(n) {
	return milliseconds(n * 36e5);
}
/** A span of `n` days. */
export function days(n) {
	return milliseconds(n * 864e5);
}
/** A git repository; its name is `code` unless `more` says otherwise. */
export function git(url, more = {}) {
	return {
		name: "code",
		url,
		...more
	};
}
/** A command of a build. */
export function step(name, ...run) {
	return {
		name,
		run
	};
}
/** A file or folder that goes into the package; under the same name unless `to` is given. */
export function files(from, to = from) {
	return {
		from,
		to
	};
}
/** A test of a stage. */
export function test(name, ...run) {
	return {
		name,
		run
	};
}
/** "At least 100 requests to the create API". */
export function atLeast(requests, api) {
	return api === undefined ? { requests } : {
		requests,
		api
	};
}
/** A wave that is placed by hand. */
export function wave(...regions) {
	return { regions };
}
/** A stage of any name. */
export function stage(environment, values = {}) {
	return {
		environment,
		...values
	};
}
/** The first test environment, for the team's own developers. */
export function alpha(values = {}) {
	return stage("alpha", values);
}
/** A test environment; without a one-box. */
export function beta(values = {}) {
	return stage("beta", values);
}
/** The test environment that is most like production: it begins with a one-box, too. */
export function gamma(values = {}) {
	return stage("gamma", {
		oneBox: true,
		...values
	});
}
/** Production's endpoints before customers come: the team's own services are called in production. */
export function zeta(values = {}) {
	return stage("zeta", {
		own: "production",
		...values
	});
}
/** Production: waves over the organisation's Regions, each beginning with a one-box. */
export function production(values = {}) {
	return stage("production", {
		oneBox: true,
		...values
	});
}
/** What every pipeline has. Extend one of its kinds: {@link ApplicationPipeline} and its siblings. */
export class Pipeline {
	constructor() {
		this.boxesPerAz = 3;
		this.observeOnly = false;
	}
	/** Where its changes come from. */
	sources() {
		if (this.repository === undefined) {
			throw new TypeError("say where the code is: repository = \"https://...\", or a method sources()");
		}
		return [git(this.repository)];
	}
	/** Pre-production and production, in order. */
	stages() {
		return [
			beta(),
			gamma(),
			production()
		];
	}
	/** Bake times, in stages that do not say otherwise, as far as the team's defaults and the profile are not right. */
	bake() {
		const data = this.dataRequirements();
		return data.length === 0 ? {} : { data };
	}
	/** Requests that every bake has to see as well, such as `[atLeast(100, "POST /orders")]`. */
	dataRequirements() {
		return [];
	}
	/** Tests of every stage that does not say otherwise. */
	tests() {
		return [];
	}
	/**
	* Production's waves, if they are placed by hand. Without any the server plans them from the Regions' traffic: the least
	* first, then the most, then 3, then up to 12, then the rest. So a new Region reaches every pipeline by itself.
	*/
	waves() {
		return [];
	}
	/** How many boxes at once, as far as the team's defaults and the profile are not right. */
	rolling() {
		return {};
	}
	/** Environment variables of what runs. */
	environment() {
		return {};
	}
	/** Environment variables whose values are secrets on the server: variable to secret's name. */
	secrets() {
		return {};
	}
	/** Services that it calls; their addresses come as `TIDEGATE_ENDPOINT_<SERVICE>`. */
	calls() {
		return [];
	}
}
/** A server process: what customers, or other services, call. */
export class ApplicationPipeline extends Pipeline {
	constructor(..._args) {
		super(..._args);
		this.kind = "app";
		this.health = { path: "/health" };
		this.limits = {};
		this.drainTimeout = seconds(30);
		this.stopTimeout = seconds(10);
	}
}
/** What a team's own commands deploy: infrastructure, images, tools. Each command must be idempotent. */
export class CommandPipeline extends Pipeline {
	constructor(..._args2) {
		super(..._args2);
		this.manyBoxes = false;
		this.undo = [];
		this.timeLimit = minutes(30);
		this.boxesPerAz = 1;
	}
}
/** Infrastructure: stacks of resources, moved by the team's own commands. */
export class InfrastructurePipeline extends CommandPipeline {
	constructor(..._args3) {
		super(..._args3);
		this.kind = "infrastructure";
	}
}
/** The operating system of the service's machines: images and patches. */
export class OperatingSystemPipeline extends CommandPipeline {
	constructor(..._args4) {
		super(..._args4);
		this.kind = "os";
	}
}
/** Tools for the people who operate the service. */
export class OperatorToolsPipeline extends CommandPipeline {
	constructor(..._args5) {
		super(..._args5);
		this.kind = "tools";
	}
}
/** Configuration and feature flags: files that the service's boxes take up while they run. */
export class ConfigurationPipeline extends Pipeline {
	constructor(..._args6) {
		super(..._args6);
		this.kind = "config";
		this.reload = "/reload";
		this.timeout = seconds(5);
	}
}
/**
* This folder itself, as a source with a pipeline: a merged and approved change of it is built into a package, and the server
* that deploys it takes it as a whole, or not at all when something in it is wrong; then the release is taken back like any
* other. An administrator applies the folder for the first time. Pipelines that leave the folder stay: `tidegate retire`.
*/
export class DefinitionsPipeline extends Pipeline {
	constructor(..._args7) {
		super(..._args7);
		this.kind = "pipelines";
		this.folder = "pipelines";
		this.scope = "team";
		this.boxesPerAz = 1;
	}
	/** The folder as it is; steps of a subclass may check or make it. */
	build() {
		return { package: [files(this.folder)] };
	}
	/** Production in the server's Region, so its team's windows hold. */
	stages() {
		return [production({
			regions: [this.region],
			oneBox: false
		})];
	}
	/** A quarter of an hour: the pipelines that it changes bake by themselves. */
	bake() {
		return {
			...super.bake(),
			firstWave: minutes(15)
		};
	}
	/** What is wrong with definitions does not get right by waiting long. */
	rolling() {
		return {
			...super.rolling(),
			progressDeadline: minutes(1)
		};
	}
}
/** People, teams, services and the central list of Regions: `export default new Organisation({ ... })`, once in a folder. */
export class Organisation {
	constructor(values) {
		this.values = values;
	}
}
