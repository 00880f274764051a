import { ShopCommands } from "./team";

class Assets extends ShopCommands {
  kind = "assets";
  folder = "static-assets";
  content = "assets";
}

export default new Assets();
