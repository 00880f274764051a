import { ShopCommands } from "./team";

class Infrastructure extends ShopCommands {
  kind = "infrastructure";
  folder = "infrastructure";
  content = "stack.conf";
}

export default new Infrastructure();
