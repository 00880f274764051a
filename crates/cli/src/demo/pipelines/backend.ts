import { ShopPipeline } from "./team";

class Backend extends ShopPipeline {
  service = "backend";
}

export default new Backend();
