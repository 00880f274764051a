import { ShopPipeline } from "./team";

class Orders extends ShopPipeline {
  service = "orders";
  boxesPerAz = 6;
}

export default new Orders();
