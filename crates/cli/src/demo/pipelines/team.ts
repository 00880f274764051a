import {
  ApplicationPipeline, type Bake, type Build, CommandPipeline, type HealthCheck, type Rolling, type Source, type Stage,
  type Test, atLeast, beta, files, gamma, git, production, step, test,
} from "tidegate";
import { repositories } from "./place";

/** A server of the team: beta, gamma in two Regions, production in three waves. Bakes are seconds because this says so. */
export abstract class ShopPipeline extends ApplicationPipeline {
  health: HealthCheck = {
    path: "/health",
    interval: "500ms",
    timeout: "2s",
    healthyAfter: 1,
    unhealthyAfter: 3,
    startTimeout: "20s",
  };
  drainTimeout = "5s" as const;
  stopTimeout = "5s" as const;

  get command(): string[] {
    return [`./${this.service}`];
  }

  sources(): Source[] {
    return [git(`${repositories}/${this.service}`, { poll: "1s" })];
  }

  build(): Build {
    return {
      steps: [
        step("compile", "cargo", "build", "--release", "--offline", "--jobs", "1"),
        step("unit tests", "cargo", "test", "--release", "--offline", "--jobs", "1", "--quiet"),
      ],
      package: [files(`target/release/${this.service}`, this.service), files("target/release/itest", "itest")],
      limits: { time: "5m" },
    };
  }

  stages(): Stage[] {
    const tests: Test[] = [{ ...test("integration", "./itest"), timeLimit: "30s" }];
    return [
      beta({ regions: ["north"], boxesPerAz: 1, tests, bake: { az: "1s" } }),
      gamma({ regions: ["north", "west"], boxesPerAz: 1, tests, bake: { oneBox: "1s", az: "1s" } }),
      production(),
    ];
  }

  bake(): Bake {
    return { oneBox: "5s", az: "1s", firstWave: "15s", secondWave: "3s", lastWave: "2s", data: [atLeast(5)] };
  }

  rolling(): Rolling {
    return { healthyFor: "500ms", progressDeadline: "30s" };
  }
}

/** What the team's own commands deploy beside it, in two Regions. */
export abstract class ShopCommands extends CommandPipeline {
  /** The repository, and what is packed of it. */
  abstract folder: string;
  abstract content: string;
  service = "frontend";
  deploy = ["./deploy.sh"];
  observe = ["./observe.sh"];
  undo = ["./rollback.sh"];
  timeLimit = "20s" as const;

  sources(): Source[] {
    return [git(`${repositories}/${this.folder}`, { name: "files", poll: "1s" })];
  }

  build(): Build {
    const packed = [this.content, "deploy.sh", "observe.sh", "rollback.sh"];
    return {
      steps: [step("check and pack", "./build.sh")],
      package: packed.map((file) => files(`dist/${file}`, file)),
      limits: { time: "1m" },
    };
  }

  stages(): Stage[] {
    return [production({ regions: ["north", "east"] })];
  }

  bake(): Bake {
    return { oneBox: "1s", az: "1s", firstWave: "1s", secondWave: "1s", lastWave: "1s" };
  }

  rolling(): Rolling {
    return { healthyFor: "0s", progressDeadline: "30s" };
  }
}
