import { ApplicationPipeline, atLeast, beta, files, gamma, production, step, test } from "tidegate";

export class TeamPipeline extends ApplicationPipeline {
  get repository() {
    return `https://git.example.com/${this.service}.git`;
  }

  get command() {
    return [`./${this.service}`];
  }

  build() {
    return {
      lockFiles: ["Cargo.lock"],
      fetch: [step("dependencies", "cargo", "fetch", "--locked")],
      steps: [
        step("build", "cargo", "build", "--release", "--locked", "--offline"),
        step("test", "cargo", "test", "--release", "--locked", "--offline"),
      ],
      package: [files(`target/release/${this.service}`, this.service), files("target/release/itest", "itest")],
      environment: { CARGO_HOME: "/cache" },
    };
  }

  tests() {
    return [test("integration", "./itest")];
  }

  dataRequirements() {
    return [atLeast(100)];
  }

  stages() {
    return [
      beta({ regions: ["region-00"], boxesPerAz: 1 }),
      gamma({ regions: ["region-00", "region-01"] }),
      production(),
    ];
  }
}
