import { Organisation, type Windows } from "tidegate";

/** When somebody is there, without Friday afternoon. */
const businessHours: Windows = {
  weekly: {
    timeZone: "Europe/Berlin",
    open: [
      { days: ["monday", "tuesday", "wednesday", "thursday"], hours: "09:00-16:00" },
      { days: ["friday"], hours: "09:00-12:00" },
    ],
  },
};

export default new Organisation({
  name: "acme",
  users: [
    { name: "alice", emails: ["alice@acme.test"] },
    { name: "bob", emails: ["bob@acme.test"] },
  ],
  teams: [
    {
      name: "shop",
      members: ["alice", "bob"],
      pages: [{ webhook: "http://127.0.0.1:9000/page" }],
      windows: businessHours,
    },
  ],
  services: [
    { name: "orders", team: "shop" },
    { name: "stock", team: "shop" },
  ],
  // 24 Regions with 76 AZs.
  regions: [
    { name: "af-south-1", azs: ["a", "b", "c"], traffic: 12 },
    { name: "ap-east-1", azs: ["a", "b", "c"], traffic: 22 },
    { name: "ap-northeast-1", azs: ["a", "b", "c", "d"], traffic: 180 },
    { name: "ap-northeast-2", azs: ["a", "b", "c", "d"], traffic: 80 },
    { name: "ap-northeast-3", azs: ["a", "b", "c"], traffic: 28 },
    { name: "ap-south-1", azs: ["a", "b", "c"], traffic: 90 },
    { name: "ap-southeast-1", azs: ["a", "b", "c"], traffic: 100 },
    { name: "ap-southeast-2", azs: ["a", "b", "c"], traffic: 120 },
    { name: "ap-southeast-3", azs: ["a", "b", "c"], traffic: 30 },
    { name: "ca-central-1", azs: ["a", "b", "c"], traffic: 60 },
    { name: "eu-central-1", azs: ["a", "b", "c"], traffic: 160 },
    { name: "eu-north-1", azs: ["a", "b", "c"], traffic: 40 },
    { name: "eu-south-1", azs: ["a", "b", "c"], traffic: 20 },
    { name: "eu-west-1", azs: ["a", "b", "c"], traffic: 260 },
    { name: "eu-west-2", azs: ["a", "b", "c"], traffic: 75 },
    { name: "eu-west-3", azs: ["a", "b", "c"], traffic: 50 },
    { name: "me-south-1", azs: ["a", "b", "c"], traffic: 25 },
    { name: "sa-east-1", azs: ["a", "b", "c"], traffic: 55 },
    { name: "us-east-1", azs: ["a", "b", "c", "d"], traffic: 400 },
    { name: "us-east-2", azs: ["a", "b", "c"], traffic: 110 },
    { name: "us-gov-east-1", azs: ["a", "b", "c"], traffic: 14 },
    { name: "us-gov-west-1", azs: ["a", "b", "c"], traffic: 18 },
    { name: "us-west-1", azs: ["a", "b", "c"], traffic: 45 },
    { name: "us-west-2", azs: ["a", "b", "c", "d"], traffic: 240 },
  ],
});
