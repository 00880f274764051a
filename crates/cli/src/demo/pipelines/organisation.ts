import { type Alarm, Organisation, type Service } from "tidegate";
import { pages } from "./place";

/** Periods of two seconds: the demo tells in minutes what takes days. */
function alarms(prefix: string): Alarm[] {
  const common = { period: "2s", datapoints: "2 of 3" } as const;
  return [
    { ...common, name: `${prefix}_High_Fault_Rate`, metric: { "fault-rate": {} }, threshold: 10 },
    { ...common, name: `${prefix}_High_P90_Latency`, metric: { latency: { percentile: "p90" } }, threshold: 1500 },
    {
      ...common,
      name: `${prefix}_High_Failing_Health_Checks`,
      metric: "unhealthy-boxes",
      threshold: 60,
      // The first boxes of an environment are all starting, for longer where CPU is wanting.
      datapoints: "5 of 6",
      minSamples: 1,
    },
    {
      ...common,
      name: `${prefix}_OneBox_High_Fault_Rate`,
      scope: "one-box",
      metric: { "fault-rate": {} },
      threshold: 10,
      // A one-box has few requests and a short bake: one bad period is enough.
      datapoints: "1 of 2",
      minSamples: 1,
    },
    {
      ...common,
      name: `${prefix}_High_Canary_Failures`,
      metric: "canary-failures",
      threshold: 60,
      minSamples: 1,
    },
  ];
}

function service(name: string, prefix: string, canary: `/${string}`): Service {
  const canaries = [{ name: "read", path: canary, every: "1s", timeout: "3s" } as const];
  return { name, team: "shop", alarms: alarms(prefix), canaries };
}

export default new Organisation({
  name: "demo",
  users: [
    { name: "alice", emails: ["alice@example.test"] },
    { name: "bob", emails: ["bob@example.test"] },
    { name: "carol", emails: ["carol@example.test"], roles: ["principal-engineer"] },
  ],
  teams: [{ name: "shop", members: ["alice", "bob"], lateApproval: "allow", pages: [{ webhook: pages }] }],
  services: [service("frontend", "Frontend", "/items/1"), service("backend", "Backend", "/stock/1")],
  // The planner makes three waves of them: north, east, then south and west.
  regions: [
    { name: "north", azs: ["a", "b"], traffic: 10 },
    { name: "east", azs: ["a", "b", "c"], traffic: 40 },
    { name: "south", azs: ["a", "b"], traffic: 20 },
    { name: "west", azs: ["a", "b"], traffic: 30 },
  ],
});
