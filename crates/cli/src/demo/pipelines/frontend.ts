import { ShopPipeline } from "./team";

class Frontend extends ShopPipeline {
  service = "frontend";

  calls() {
    return ["backend"];
  }
}

export default new Frontend();
