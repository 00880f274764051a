import { ApplicationPipeline, type Build, type Stage, files, gamma, production, test } from "tidegate";

/** What all of the team's pipelines share; everything else is as the library has it. */
export abstract class ShopPipeline extends ApplicationPipeline {
  get repository(): string {
    return `https://git.acme.test/${this.service}.git`;
  }

  get command(): string[] {
    return [`./${this.service}`];
  }

  build(): Build {
    return { package: [files(`target/release/${this.service}`, this.service)] };
  }

  stages(): Stage[] {
    return [
      gamma({
        regions: ["eu-west-1", "us-east-1"],
        boxesPerAz: 3,
        tests: [test("workflows", `./${this.service}`, "--test")],
      }),
      production(),
    ];
  }
}
